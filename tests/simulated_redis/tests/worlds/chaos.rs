//! What goes wrong, and when.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use crate::clients;
use crate::faults::Fault;
use crate::link::Wire;
use crate::world::World;

/// Longer than any world.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

/// Strikes until the world is over.
pub(crate) async fn reign(world: Arc<World>, mut rng: Rng) {
    let weights: u32 = world.config.faults.iter().map(|(_, weight)| weight).sum();
    if weights == 0 {
        return;
    }
    loop {
        let rest = rng.u64(0..=2 * world.config.fault_every_ms);
        sleep(Duration::from_millis(rest)).await;
        if rng.u8(0..4) == 0 {
            world.store.snapshot();
        }
        if world.is_over() {
            return;
        }
        let mut nth = rng.u32(0..weights);
        let chosen = world.config.faults.iter().find(|(_, weight)| {
            let here = nth < *weight;
            nth = nth.saturating_sub(*weight);
            here
        });
        if let Some((fault, _)) = chosen {
            strike(&world, *fault, &mut rng);
        }
    }
}

fn strike(world: &Arc<World>, fault: Fault, rng: &mut Rng) {
    let config = &world.config;
    let seat = rng.usize(0..config.instances);
    let instance = world.at(seat);
    // Now shorter than what anybody waits for, now longer than what anybody may believe.
    let longest = 2 * config.max_staleness_ms + 2 * config.l2_timeout_ms;
    let lasts = Duration::from_millis(rng.u64(20..=longest));
    // Longer than it takes to notice that another primary is there.
    let until_noticed = config.max_staleness() + 2 * lasts;
    let here = Some(instance.index);
    match fault {
        Fault::Cut => {
            world.struck(fault, Duration::ZERO, here);
            instance.link.cut(Wire::Data);
        }
        Fault::SubscriberCut => {
            world.struck(fault, Duration::ZERO, here);
            instance.link.cut(Wire::Subscription);
        }
        Fault::Paused => {
            let lasts = Duration::from_millis(rng.u64(10..config.max_staleness_ms));
            world.struck(fault, lasts, here);
            instance.link.begin(fault, lasts);
        }
        Fault::PausedLong => {
            let lasts = config.max_staleness() + lasts;
            world.struck(fault, lasts, here);
            instance.link.begin(fault, lasts);
        }
        Fault::Death => {
            // Its callers may go on looking keys up. It gets no lease any more, so it loads without one.
            world.struck(fault, FOR_EVER, here);
            instance.link.begin(fault, FOR_EVER);
            world.place(seat, rng);
            // The instances that survive invalidate what it had committed and not invalidated.
            tokio::spawn(clients::invalidate_again(
                Arc::clone(world),
                instance,
                rng.fork(),
            ));
        }
        Fault::Closed => {
            world.struck(fault, Duration::ZERO, here);
            world.place(seat, rng);
            tokio::spawn(clients::close(Arc::clone(world), instance, rng.fork()));
        }
        Fault::StoreEmptied | Fault::StoreRolledBack => {
            world.struck(fault, Duration::ZERO, None);
            let store = Arc::clone(&world.store);
            store.restart(fault == Fault::StoreEmptied, rng);
        }
        Fault::ClockStepped => {
            world.struck(fault, Duration::ZERO, None);
            let by = rng.u64(1..=300);
            world.store.step_clock(Duration::from_secs(by));
        }
        Fault::FailedOver | Fault::HandedOver | Fault::Isolated | Fault::SplitBrain => {
            let lag = Duration::from_millis(rng.u64(0..=2 * config.max_staleness_ms));
            world.struck(fault, until_noticed, None);
            let store = Arc::clone(&world.store);
            store.take_over(fault, lag, until_noticed, rng);
        }
        Fault::CutAndGrown => {
            world.struck(fault, until_noticed, None);
            let store = Arc::clone(&world.store);
            store.strike(fault, until_noticed, rng);
        }
        Fault::TagVersionLost => {
            world.struck(fault, Duration::ZERO, None);
            let store = Arc::clone(&world.store);
            store.lose_tag(rng);
        }
        Fault::StorePaused
        | Fault::StoreAway
        | Fault::SlotMoved
        | Fault::NobodyElected
        | Fault::StoreFull
        | Fault::KeyEvicted
        | Fault::Flushed
        | Fault::ScriptsForgotten
        | Fault::PutBack
        | Fault::HoldEvicted
        | Fault::ClockSteppedBack => {
            world.struck(fault, lasts, None);
            let store = Arc::clone(&world.store);
            store.strike(fault, lasts, rng);
        }
        Fault::Cleared => {
            world.struck(fault, Duration::ZERO, None);
            tokio::spawn(clients::clear(Arc::clone(world), instance));
        }
        fault => {
            world.struck(fault, lasts, here);
            instance.link.begin(fault, lasts);
        }
    }
}
