//! Proofs, and what revokes them. What tokio's channels order is beyond what loom can see.

use futures::FutureExt;

use super::in_every_order;

#[test]
fn no_proof_outlives_a_revocation_after_its_question() {
    in_every_order(|world| {
        let subscriber = world.spawn(|world| {
            let asked = world.l1.freshness.begin_proof();
            world.prove(asked);
            asked.revocations
        });
        let other = world.spawn(|world| world.l1.freshness.flush_and_revoke_proof());
        world.l1.freshness.flush_and_revoke_proof();
        other.join().unwrap();
        let revocations = subscriber.join().unwrap();
        assert_eq!(world.l1.freshness.is_live(), revocations == 2);
    });
}

/// Otherwise the proof that the subscriber asks for next would be revoked as well.
#[test]
fn a_revocation_counts_when_the_subscriber_is_notified() {
    in_every_order(|world| {
        let subscriber = world.spawn(|world| {
            let requested = world.l1.freshness.woken_for_proof().now_or_never();
            if requested.is_some() {
                assert_eq!(world.l1.freshness.begin_proof().revocations, 1);
            }
        });
        world.l1.freshness.flush_and_revoke_proof();
        subscriber.join().unwrap();
    });
}
