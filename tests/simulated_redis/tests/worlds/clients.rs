//! The clients of the caches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::future::{BoxFuture, join_all, try_join_all};
use larder::{CommitError, Entry, LoadError, Loaded, Source as From, Token, Version, WriteError};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::faults::Fault;
use crate::history::{At, Known, Level, Outcome, Read, Rest, Seen, Update, Write, WriteOutcome};
use crate::source::{self, Number, Plan, SourceDown, Versioned, load};
use crate::world::{Instance, World};

/// Keys that a loader is asked for, with their previous values.
type Asked = Vec<(Number, Option<Entry<Versioned>>)>;
/// What it returns.
type Rows = Result<Vec<(Number, Loaded<Versioned>)>, SourceDown>;

/// Reads in one seat of the fleet until the world is over.
pub(crate) async fn read(world: Arc<World>, seat: usize, mut rng: Rng) {
    loop {
        sleep(rest_of(world.config.read_rest_ms, &mut rng)).await;
        let instance = world.at(seat);
        instance.link.awake().await;
        if world.is_over() {
            return;
        }
        // Some come for several keys at once.
        if rng.f64() < 0.1 {
            look_up_many(&world, &instance, &mut rng).await;
        }
        for _ in 0..rng.usize(1..=4) {
            look_up(&world, &instance, &mut rng).await;
        }
    }
}

async fn look_up(world: &World, instance: &Instance, rng: &mut Rng) {
    let key = any_key(&world.config, rng);
    let plan = Plan::draw(&world.config, rng);
    let patience = (rng.f64() < world.config.cancelled)
        .then(|| Duration::from_millis(rng.u64(0..=world.config.load_timeout_ms / 8)));
    let how = rng.u8(0..10);
    let anew = rng.f64() < world.config.refreshes;
    if rng.f64() < world.config.touches {
        touch(instance, key, rng).await;
    }
    let known = if rng.f64() < world.config.tokens {
        let tokens = world.tokens.lock().unwrap();
        (!tokens.is_empty()).then(|| tokens[rng.usize(0..tokens.len())].clone())
    } else {
        None
    };
    let start = world.recorder.now();
    let outcome = async {
        if let Some((token, ..)) = &known {
            return informed(world, instance, key, plan, token, how).await;
        }
        match how {
            _ if anew => loaded(refresh(world, instance, key, plan).await),
            0..=2 => found(instance.cache.get_local(&key)),
            3..=4 => found(instance.cache.get(&key).await),
            _ => loaded(get_or_load(world, instance, key, plan).await),
        }
    };
    let outcome = match patience {
        None => outcome.await,
        Some(patience) => timeout(patience, outcome).await.unwrap_or_else(|_| {
            world.recorder.count(Fault::CancelledRead);
            Outcome::Cancelled
        }),
    };
    let knows = known.map(|(_, writer, known)| {
        if writer != instance.index {
            world.recorder.count(Fault::Informed);
        }
        known
    });
    note_reads(world, instance, start, knows, [(key, outcome)]);
}

/// With the token of a write.
async fn informed(
    world: &World,
    instance: &Instance,
    key: u64,
    plan: Plan,
    token: &Token,
    how: u8,
) -> Outcome {
    let (source, config) = (Arc::clone(&world.source), Arc::clone(&world.config));
    let (index, at_least) = (instance.index, instance.cache.at_least(token));
    let loader = move |previous| load(source, config, index, key, previous, plan);
    match how {
        0..=1 => found(at_least.get(&key).await),
        2..=3 => found(at_least.get_many([&key, &0]).await.remove(0)),
        _ => loaded(at_least.get_or_load_with(&key, loader).await),
    }
}

/// Whatever becomes of it: what is stored stays, or is loaded anew.
async fn touch(instance: &Instance, key: u64, rng: &mut Rng) {
    if rng.bool() {
        let _ = instance.cache.expire(&key).await;
    } else {
        let ttl = Duration::from_millis(rng.u64(20..=5000));
        let _ = instance.cache.touch(&key, ttl).await;
    }
}

/// Takes down look-ups that end now.
fn note_reads(
    world: &World,
    instance: &Instance,
    start: At,
    knows: Option<Known>,
    outcomes: impl IntoIterator<Item = (u64, Outcome)>,
) {
    let end = world.recorder.now();
    let mut outcomes: Vec<_> = outcomes.into_iter().collect();
    for (key, outcome) in &mut outcomes {
        if let Outcome::Value(seen) = outcome {
            // Another call has put it in the place of a write that waited: it has no place in their order.
            seen.stored &= !world.source.was_replaced(*key, start, end);
        }
    }
    for (_, outcome) in &outcomes {
        if matches!(outcome, Outcome::Value(seen) if seen.fallback) {
            world.recorder.count(Fault::FellBack);
        }
    }
    // A token says nothing of the partitions that its write has not reached.
    let partition_of = |key| source::partition_of(key, world.config.most_partitions());
    let known = |key| knows.filter(|known| partition_of(known.key) == partition_of(key));
    let reads = outcomes.into_iter().map(|(key, outcome)| Read {
        instance: instance.index,
        key,
        start,
        end,
        outcome,
        knows: known(key),
    });
    world.recorder.write(|history| history.reads.extend(reads));
}

/// Several keys in one call, noted as if each had been looked up by itself.
async fn look_up_many(world: &World, instance: &Instance, rng: &mut Rng) {
    let mut plans = BTreeMap::new();
    for _ in 0..rng.usize(2..=6) {
        let key = any_key(&world.config, rng);
        plans.insert(key, Plan::draw(&world.config, rng));
    }
    let keys: Vec<u64> = plans.keys().copied().collect();
    let loader = loader_of_many(world, instance, plans);
    let loads = rng.bool();
    let start = world.recorder.now();
    let found = if loads {
        instance.cache.get_many_or_load_with(&keys, loader).await
    } else {
        Ok(instance.cache.get_many(&keys).await)
    };
    let outcomes: Vec<Outcome> = match found {
        Ok(entries) => entries.into_iter().map(self::found).collect(),
        Err(error) => keys.iter().map(|_| loaded(Err(error.clone()))).collect(),
    };
    note_reads(world, instance, start, None, keys.into_iter().zip(outcomes));
}

/// Loads some of these keys, each as its plan says.
fn loader_of_many(
    world: &World,
    instance: &Instance,
    plans: BTreeMap<u64, Plan>,
) -> impl Fn(Asked) -> BoxFuture<'static, Rows> + use<> {
    let (source, config) = (Arc::clone(&world.source), Arc::clone(&world.config));
    let index = instance.index;
    move |asked| {
        let load = |(number, previous)| {
            let Number(key) = number;
            let (source, config) = (Arc::clone(&source), Arc::clone(&config));
            let plan = plans[&key];
            async move {
                let loaded = load(source, config, index, key, previous, plan).await?;
                Ok::<_, SourceDown>((number, loaded))
            }
        };
        Box::pin(try_join_all(
            asked.into_iter().map(load).collect::<Vec<_>>(),
        ))
    }
}

async fn get_or_load(
    world: &World,
    instance: &Instance,
    key: u64,
    plan: Plan,
) -> Result<Entry<Versioned>, LoadError> {
    let (source, config) = (Arc::clone(&world.source), Arc::clone(&world.config));
    let index = instance.index;
    let loader = move |previous| load(source, config, index, key, previous, plan);
    let entry = instance.cache.get_or_load_with(&key, loader).await?;
    assert_eq!(entry.key, key, "a value came back under another key");
    Ok(entry)
}

/// Joins no load that began before: what it returns is not older than the source is now.
async fn refresh(
    world: &World,
    instance: &Instance,
    key: u64,
    plan: Plan,
) -> Result<Entry<Versioned>, LoadError> {
    let (source, config) = (Arc::clone(&world.source), Arc::clone(&world.config));
    world.recorder.count(Fault::LoadedAnew);
    // The load whose lease it takes over may still be under way when the next one begins.
    let lasts = Duration::from_millis(config.load_timeout_ms) + config.recovery();
    world.recorder.disturbed(lasts, None, Some(key));
    let (index, current) = (instance.index, world.source.current(key));
    let loader = async move || {
        let value = source::read(Arc::clone(&source), config, index, key, plan).await?;
        Ok::<_, SourceDown>(source.loaded(value))
    };
    let entry = instance.cache.refresh(&key, loader).await?;
    assert_eq!(entry.key, key, "a value came back under another key");
    if world.config.lag_ms == 0 {
        let version = entry.version;
        assert!(version >= current, "version {version} after {current}");
    }
    Ok(entry)
}

fn found(entry: Option<Entry<Versioned>>) -> Outcome {
    entry.map_or(Outcome::Nothing, |entry| Outcome::Value(seen(&entry)))
}

fn loaded(entry: Result<Entry<Versioned>, LoadError>) -> Outcome {
    match entry {
        Ok(entry) => Outcome::Value(seen(&entry)),
        Err(error) if error.is_loader() || error.is_panic() || error.is_timeout() => {
            Outcome::LoaderFailed
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn seen(entry: &Entry<Versioned>) -> Seen {
    let meta = entry.meta();
    Seen {
        version: entry.version,
        level: match meta.source() {
            From::L1 => Level::L1,
            From::L2 => Level::L2,
            _ => Level::Loader,
        },
        stored: meta.version().is_some(),
        unproven: meta.is_unproven(),
        fallback: meta.is_fallback(),
    }
}

/// Whether something is done that has this share. A share of nothing draws nothing, so other worlds stay as they are.
fn has_share(share: f64, rng: &mut Rng) -> bool {
    share > 0.0 && rng.f64() < share
}

/// Writes until the world is over, on whatever instance.
pub(crate) async fn write(world: Arc<World>, mut rng: Rng) {
    loop {
        sleep(rest_of(world.config.write_rest_ms, &mut rng)).await;
        if world.is_over() {
            return;
        }
        if has_share(world.config.switched_everywhere, &mut rng) {
            switch_everywhere(&world, &mut rng).await;
            continue;
        }
        if has_share(world.config.prefixes, &mut rng) {
            change_prefix(&world, &mut rng).await;
            continue;
        }
        if has_share(world.config.warming, &mut rng) {
            warm(&world, &mut rng).await;
            continue;
        }
        if has_share(world.config.tags, &mut rng) {
            change_tag(&world, &mut rng).await;
            continue;
        }
        if world.config.are_updates {
            update(&world, &mut rng).await;
            continue;
        }
        if world.config.written_behind > 0.0 {
            write_behind(&world, &mut rng).await;
            continue;
        }
        // Some write several keys at once. In their order, so that no two wait for each other's locks.
        let several = if rng.u8(0..4) == 0 { 5 } else { 1 };
        let keys: BTreeSet<u64> = (0..several)
            .map(|_| any_key(&world.config, &mut rng))
            .collect();
        let mut locks = Vec::new();
        for key in &keys {
            locks.push(world.source.write_lock(*key).lock_owned().await);
        }
        let instance = awake(&world, &mut rng).await;
        match keys.first() {
            Some(key) if keys.len() == 1 => change(&world, &instance, *key, &mut rng).await,
            _ => change_many(&world, &instance, &keys, &mut rng).await,
        }
    }
}

/// Changes a value, or removes it, at the same time as other clients.
async fn update(world: &World, rng: &mut Rng) {
    let key = any_key(&world.config, rng);
    let instance = awake(world, rng).await;
    let mut write = invalidation(world, &instance, key);
    write.lagging = true;
    if rng.f64() >= world.config.written_behind {
        let invalidated = instance.cache.invalidate(&key).await;
        return note(world, &instance, write, Some(&invalidated.map(Some)));
    }
    let plan = Plan::draw(&world.config, rng);
    let load = || {
        let (source, config) = (Arc::clone(&world.source), Arc::clone(&world.config));
        source::read(source, config, instance.index, key, plan)
    };
    let mut from = 0;
    let change = |value: &Versioned| {
        (from, write.version) = (value.version, world.source.next_behind(key));
        Versioned {
            key,
            version: write.version,
        }
    };
    let behind = instance.behind.as_ref().expect("it has a worker");
    let updated = behind.update(&key, load, change).await;
    let Ok(token) = updated else {
        return note(world, &instance, write, None);
    };
    let (to, at) = (write.version, world.recorder.now());
    let update = Update { key, from, to, at };
    world.recorder.write(|history| history.updates.push(update));
    note(world, &instance, write, Some(&Ok(Some(token))));
}

/// Writes a key behind, or beside such writes.
async fn write_behind(world: &World, rng: &mut Rng) {
    let key = any_key(&world.config, rng);
    let _lock = world.source.write_lock(key).lock_owned().await;
    let instance = awake(world, rng).await;
    let mut write = invalidation(world, &instance, key);
    write.lagging = true;
    let kind = rng.f64();
    if kind < world.config.written_behind {
        write.version = world.source.next_behind(key);
        let version = write.version;
        let behind = instance.behind.as_ref().expect("it has a worker");
        let inserted = behind.insert(&key, Versioned { key, version }).await;
        if inserted.is_err() {
            // It may still arrive: for so long, no other client writes.
            sleep(world.config.l2_timeout()).await;
        }
        // What is in doubt promises nothing.
        let result = inserted.ok().map(|token| Ok(Some(token)));
        return note(world, &instance, write, result.as_ref());
    }
    let inserts = rng.bool();
    let committed = (kind < 0.9).then(|| world.source.commit_beside(key, inserts));
    let result = match committed.flatten() {
        Some(version) => {
            write.version = version;
            if inserts {
                let value = world.source.loaded(Versioned { key, version });
                instance.cache.insert(&key, value).await
            } else {
                instance.cache.invalidate(&key).await
            }
        }
        None if inserts => {
            // What is stored stays.
            let _ = instance.cache.expire(&key).await;
            return;
        }
        None => instance.cache.invalidate(&key).await,
    };
    if result.is_err() {
        sleep(world.config.l2_timeout()).await;
    }
    note(world, &instance, write, Some(&result.map(Some)));
}

/// Has an instance load keys that nobody has looked up.
async fn warm(world: &World, rng: &mut Rng) {
    let instance = awake(world, rng).await;
    let plans = (0..rng.usize(1..=8)).map(|_| {
        let key = any_key(&world.config, rng);
        (key, Plan::draw(&world.config, rng))
    });
    let plans: BTreeMap<_, _> = plans.collect();
    let keys: Vec<_> = plans.keys().copied().map(Number).collect();
    let loader = loader_of_many(world, &instance, plans);
    let loader = move |keys: Vec<Number>| loader(keys.into_iter().map(|key| (key, None)).collect());
    world.recorder.count(Fault::Warmed);
    // It ends early if the source or the store fails.
    let _ = instance.cache.warm(keys, loader).await;
}

/// Switches all instances off, or on again, and sees that it stays so.
async fn switch_everywhere(world: &World, rng: &mut Rng) {
    let mut is_off = world.is_off.lock().await;
    let instance = awake(world, rng).await;
    *is_off = !*is_off;
    let switched = instance.cache.set_enabled_everywhere(!*is_off).await;
    if switched.is_err() {
        // It may still arrive: for so long, nobody else switches.
        sleep(world.config.l2_timeout()).await;
        return;
    }
    for _ in 0..rng.u64(1..=10) {
        assert_eq!(world.store.is_off(), *is_off, "a later switch was undone");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Commits a change of every key with a tag, then calls the cache once.
async fn change_tag(world: &World, rng: &mut Rng) {
    let tag = format!("t:{}", rng.u8(0..3));
    let all = world.source.tagged(&tag);
    let mut locks = Vec::new();
    for key in &all {
        locks.push(world.source.write_lock(*key).lock_owned().await);
    }
    let instance = awake(world, rng).await;
    let committed = all.into_iter().map(|key| {
        let version = world.source.commit(key);
        instance.uninvalidated.lock().unwrap().insert(key, version);
        invalidation(world, &instance, key)
    });
    let committed: Vec<_> = committed.collect();
    world.recorder.count(Fault::TagInvalidated);
    let result = instance.cache.invalidate_tag(&tag).await.map(Some);
    for write in committed {
        note(world, &instance, write, Some(&result));
    }
}

/// Commits a change of every key that begins with a digit, then calls the cache once.
async fn change_prefix(world: &World, rng: &mut Rng) {
    let prefix = rng.u64(0..world.config.keys).to_string();
    let prefix = &prefix[..1];
    let all = (0..world.config.keys).filter(|key| key.to_string().starts_with(prefix));
    let mut locks = Vec::new();
    for key in all.clone() {
        locks.push(world.source.write_lock(key).lock_owned().await);
    }
    let instance = awake(world, rng).await;
    let committed = all.map(|key| {
        let version = world.source.commit(key);
        instance.uninvalidated.lock().unwrap().insert(key, version);
        invalidation(world, &instance, key)
    });
    let committed: Vec<_> = committed.collect();
    world.recorder.count(Fault::PrefixInvalidated);
    let result = instance.cache.invalidate_prefix(prefix).await.map(|_| None);
    for write in committed {
        note(world, &instance, write, Some(&result));
    }
}

/// As [`change`], all at once.
async fn change_many(world: &World, instance: &Instance, keys: &BTreeSet<u64>, rng: &mut Rng) {
    let committed = keys.iter().map(|key| {
        let version = world.source.commit(*key);
        instance.uninvalidated.lock().unwrap().insert(*key, version);
        (key, version, invalidation(world, instance, *key))
    });
    let committed: Vec<_> = committed.collect();
    let result = if rng.f64() < world.config.inserts {
        let entries = committed.iter().map(|(key, version, _)| {
            let (key, version) = (*key, *version);
            (key, world.source.loaded(Versioned { key: *key, version }))
        });
        if rng.f64() < world.config.switched {
            let cache = instance.cache.clone();
            source::while_encoding(rng.usize(0..keys.len()), move || {
                cache.set_enabled(false);
                cache.set_enabled(true);
            });
        }
        instance.cache.insert_many(entries).await.map(Some)
    } else if world.config.lag_ms == 0 && rng.bool() {
        instance.cache.invalidate_many(keys).await.map(Some)
    } else {
        // Each by itself, which the writer sends together all the same.
        let result = keys.iter().map(|key| invalidate(world, instance, *key));
        let results = join_all(result).await.into_iter();
        results.collect::<Result<Vec<_>, _>>().map(|_| None)
    };
    if result.is_err() {
        sleep(world.config.l2_timeout()).await;
    }
    for (_, _, write) in committed {
        note(world, instance, write, Some(&result));
    }
}

/// Any instance, when it is not paused.
async fn awake(world: &World, rng: &mut Rng) -> Arc<Instance> {
    loop {
        let instance = world.at(rng.usize(0..world.config.instances));
        instance.link.awake().await;
        if !instance.link.has(Fault::Death) {
            return instance;
        }
    }
}

/// Commits, then calls the cache. The caller holds the key's lock.
async fn change(world: &Arc<World>, instance: &Arc<Instance>, key: u64, rng: &mut Rng) {
    if has_share(world.config.written_through, rng) {
        return write_through(world, instance, key, rng).await;
    }
    let version = world.source.commit(key);
    let mut write = invalidation(world, instance, key);
    instance.uninvalidated.lock().unwrap().insert(key, version);
    let kind = rng.f64();
    let patience = (rng.f64() < world.config.cancelled).then(|| rng.u64(0..=20));
    let result = if kind < world.config.inserts {
        let mut value = world.source.loaded(Versioned { key, version });
        if rng.u8(0..4) == 0 {
            value = value.ttl(Duration::from_millis(rng.u64(20..=3000)));
        }
        let result = instance.cache.insert(&key, value).await;
        if result.is_err() {
            // It may still arrive: for so long, no other client writes.
            sleep(world.config.l2_timeout()).await;
        }
        Some(result.map(Some))
    } else if kind < world.config.inserts + world.config.competitions {
        Some(compete(world, instance, key, version, rng).await)
    } else if kind > 1.0 - world.config.waited_for {
        write.everywhere = true;
        Some(instance.cache.invalidate_and_wait(&key).await.map(Some))
    } else {
        let result = invalidate(world, instance, key);
        match patience {
            None => Some(result.await),
            Some(ms) => timeout(Duration::from_millis(ms), result).await.ok(),
        }
        .map(|result| result.map(Some))
    };
    if result.is_none() {
        world.recorder.count(Fault::CancelledWrite);
    }
    note(world, instance, write, result.as_ref());
}

/// Two instances have their caches write a number each to the source. The second one writes after the first; what they
/// do to the stores and to each other comes in any order. The caller holds the key's lock.
async fn write_through(world: &Arc<World>, instance: &Arc<Instance>, key: u64, rng: &mut Rng) {
    world.recorder.count(Fault::WrittenThrough);
    let other = awake(world, rng).await;
    let current = world.source.current(key);
    let write = async |instance: &Arc<Instance>, version: u64, takes: u64| {
        let value = world.source.loaded(Versioned { key, version });
        let (world, writer) = (Arc::clone(world), Arc::clone(instance));
        let store = |_: &Versioned| async move {
            // The load whose lease it has taken over goes on, or begins when the grant arrives.
            let recorder = &world.recorder;
            recorder.disturbed(world.config.l2_timeout(), None, Some(key));
            sleep(Duration::from_millis(takes)).await;
            writer.link.awake().await;
            for _ in 0..100 {
                if world.source.current(key) + 1 < version {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            let is_there = world.fleet().iter().any(|one| Arc::ptr_eq(one, &writer));
            if !is_there || world.source.current(key) + 1 != version {
                return Err(SourceDown);
            }
            world.source.commit(key);
            writer.uninvalidated.lock().unwrap().insert(key, version);
            sleep(Duration::from_millis(takes / 2)).await;
            Ok(())
        };
        instance.cache.write_through(&key, value, store).await
    };
    let (ours, theirs) = (rng.u64(0..=30), rng.u64(0..=30));
    let (ours, theirs) = futures::join!(
        write(instance, current + 1, ours),
        write(&other, current + 2, theirs)
    );
    let results = [(instance, ours), (&other, theirs)];
    for (version, (instance, result)) in (current + 1..).zip(results) {
        let result = match result {
            Ok(token) => Ok(Some(token)),
            Err(CommitError::NotInvalidated { error, .. }) => Err(error),
            // Nothing was committed.
            Err(_) => continue,
        };
        let write = Write {
            version,
            ..invalidation(world, instance, key)
        };
        note(world, instance, write, Some(&result));
    }
}

/// Two instances insert the value on the condition that what one of them has read is still there.
async fn compete(
    world: &World,
    instance: &Instance,
    key: u64,
    version: u64,
    rng: &mut Rng,
) -> Result<Option<Token>, WriteError> {
    world.recorder.count(Fault::Competed);
    let seen = instance.cache.get(&key).await;
    let seen = seen.and_then(|entry| entry.meta().version());
    let seen = seen.unwrap_or(Version::ABSENT);
    let other = awake(world, rng).await;
    // The lock of the key is held.
    let only_time_ends_it = world.config.faults.is_empty() && world.config.touches == 0.0;
    let is_there_until = (seen == Version::ABSENT && only_time_ends_it)
        .then(|| Instant::now() + world.store.lasts(key));
    let insert = async |instance: &Instance| {
        let value = world.source.loaded(Versioned { key, version });
        instance.cache.insert_if(&key, value, seen).await
    };
    let (ours, theirs) = futures::join!(insert(instance), insert(&other));
    // Where nothing was there, the first value may have been lost before the second one came.
    assert!(
        seen == Version::ABSENT || !matches!((&ours, &theirs), (Ok(Some(_)), Ok(Some(_)))),
        "both have stored a value in the place of {seen:?}"
    );
    let is_there = is_there_until.is_some_and(|until| Instant::now() < until);
    let is_stored = matches!((&ours, &theirs), (Ok(Some(_)), _) | (_, Ok(Some(_))));
    assert!(
        !(is_there && is_stored),
        "a value was stored on the condition that there was none, and there was one"
    );
    if ours.is_err() || theirs.is_err() {
        // One may still arrive: for so long, no other client writes.
        sleep(world.config.l2_timeout()).await;
    }
    match ours {
        Ok(Some(token)) => Ok(Some(token)),
        Err(error) if error.is_deferred() => Err(error),
        // The other one has won, or somebody else has; or nothing was changed.
        Ok(None) | Err(_) => instance.cache.invalidate(&key).await.map(Some),
    }
}

async fn invalidate(world: &World, instance: &Instance, key: u64) -> Result<Token, WriteError> {
    match world.config.lag_ms {
        0 => instance.cache.invalidate(&key).await,
        lag => {
            let hold = Duration::from_millis(lag + 2);
            instance.cache.invalidate_and_hold(&key, hold).await
        }
    }
}

/// Records a write that ends now; `None` if its caller was cancelled.
fn note(
    world: &World,
    instance: &Instance,
    write: Write,
    result: Option<&Result<Option<Token>, WriteError>>,
) {
    let end = world.recorder.now();
    if let Some(Ok(Some(token))) = result {
        let known = Known {
            called: write.end,
            key: write.key,
            version: write.version,
        };
        let mut tokens = world.tokens.lock().unwrap();
        tokens.truncate(3);
        tokens.push_front((token.clone(), instance.index, known));
    }
    let outcome = match result {
        Some(Ok(_)) => WriteOutcome::Done,
        Some(Err(error)) if error.is_deferred() => WriteOutcome::Deferred,
        _ => WriteOutcome::Unknown,
    };
    let everywhere = write.everywhere && matches!(result, Some(Ok(_)));
    if outcome == WriteOutcome::Done {
        instance.uninvalidated.lock().unwrap().remove(&write.key);
    }
    world.recorder.write(|history| {
        history.writes.push(Write {
            end,
            outcome,
            everywhere,
            ..write
        });
    });
}

/// An invalidation, before it is called.
fn invalidation(world: &World, instance: &Instance, key: u64) -> Write {
    Write {
        instance: instance.index,
        key,
        version: world.source.current(key),
        // Until it ends.
        end: world.recorder.now(),
        outcome: WriteOutcome::Unknown,
        everywhere: false,
        lagging: world.config.lag_ms > 0,
    }
}

/// Invalidates what an instance had committed before it died, as the instance that replaces it has to.
pub(crate) async fn invalidate_again(world: Arc<World>, dead: Arc<Instance>, mut rng: Rng) {
    let uninvalidated: Vec<u64> = dead.uninvalidated.lock().unwrap().keys().copied().collect();
    for key in uninvalidated {
        let lock = world.source.write_lock(key);
        let _lock = lock.lock_owned().await;
        let instance = awake(&world, &mut rng).await;
        let write = invalidation(&world, &instance, key);
        instance
            .uninvalidated
            .lock()
            .unwrap()
            .insert(key, write.version);
        let result = invalidate(&world, &instance, key).await.map(Some);
        note(&world, &instance, write, Some(&result));
    }
}

/// Shuts an instance down. What it could not invalidate in time is left to others, as if it had died.
pub(crate) async fn close(world: Arc<World>, instance: Arc<Instance>, rng: Rng) {
    instance.cache.close().await;
    invalidate_again(world, instance, rng).await;
}

/// Clears the namespace through an instance: an invalidation of every key.
pub(crate) async fn clear(world: Arc<World>, instance: Arc<Instance>) {
    let writes: Vec<_> = (0..world.config.keys)
        .map(|key| invalidation(&world, &instance, key))
        .collect();
    let result = instance.cache.clear().await;
    let outcome = match &result {
        Ok(_) => WriteOutcome::Done,
        Err(_) => WriteOutcome::Deferred,
    };
    let end = world.recorder.now();
    for write in writes {
        world.recorder.write(|history| {
            history.writes.push(Write {
                end,
                outcome,
                ..write
            });
        });
    }
}

/// What everyone says of every key when all is over.
pub(crate) async fn rest(world: &World) {
    for instance in world.fleet() {
        for key in 0..world.config.keys {
            let cache = &instance.cache;
            let local = cache.get_local(&key).map(|entry| entry.version);
            let shared = cache.get(&key).await.map(|entry| entry.version);
            let loaded = get_or_load(world, &instance, key, Plan::PLAIN).await;
            let loaded = loaded.ok().map(|entry| entry.version);
            let source = world.source.current(key);
            for (level, version) in [
                (Level::L1, local),
                (Level::L2, shared),
                (Level::Loader, loaded),
            ] {
                let at = world.recorder.now();
                world.recorder.write(|history| {
                    history.rests.push(Rest {
                        instance: instance.index,
                        key,
                        at,
                        level,
                        version,
                        source,
                    });
                });
            }
        }
    }
}

fn any_key(config: &Config, rng: &mut Rng) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a small whole number, and not below zero"
    )]
    let key = (rng.f64().powi(config.skew) * config.keys as f64) as u64;
    key.min(config.keys - 1)
}

fn rest_of(mean_ms: u64, rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(0..=2 * mean_ms))
}
