//! Proofs of liveness, and doubts. What tokio's channels order is beyond what loom can see.

use futures::FutureExt;

use super::in_every_order;

#[test]
fn no_proof_older_than_a_doubt_outlives_it() {
    in_every_order(|world| {
        let listener = world.spawn(|world| {
            let doubts = world.core.liveness.doubts();
            world.prove(doubts);
            doubts
        });
        let doubting = world.spawn(|world| world.core.liveness.doubt());
        world.core.liveness.doubt();
        doubting.join().unwrap();
        let doubts = listener.join().unwrap();
        assert_eq!(world.core.liveness.is_live(), doubts == 2);
    });
}

/// Otherwise the proof that the listener asks for next would be void as well.
#[test]
fn a_doubt_counts_when_the_listener_hears_of_it() {
    in_every_order(|world| {
        let listener = world.spawn(|world| {
            if world.core.liveness.doubted().now_or_never().is_some() {
                assert_eq!(world.core.liveness.doubts(), 1);
            }
        });
        world.core.liveness.doubt();
        listener.join().unwrap();
    });
}
