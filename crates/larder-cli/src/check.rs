//! `larder check`: whether a cache, its instances and its server are as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use larder::L2Error;
use larder::inspect::{
    FleetState, LogState, Member, MissingRights, Namespace, PartitionAudit, RightsFor, StoredKey,
    UnusableReason, Watch,
};
use serde_json::{Value, json};

use crate::Outcome;
use crate::server::{Server, unknown};
use crate::text::{Screen, escaped, with_causes};

/// Two notes of a subscribed instance are less than this many of its `max_staleness` apart.
const NOTED_WITHIN: u32 = 3;
/// How long members are watched at most.
const LONGEST_WATCH: Duration = Duration::from_secs(30);
/// How many keys a finding names.
const NAMED: usize = 3;
/// If something is wrong.
const FOUND: u8 = 1;
/// If it could not be looked at.
const NOT_LOOKED: u8 = 3;

#[derive(Args)]
pub(crate) struct Check {
    /// The namespace of the cache, such as shop:price.
    namespace: String,
    /// Reads so many values of each partition.
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// Looks at the rights of this user of Redis, and not of its own.
    #[arg(long)]
    user: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Default)]
struct Report {
    partitions: u16,
    members: usize,
    keys: usize,
    are_all_keys: bool,
    problems: Vec<Finding>,
    /// What need not be mended, or could not be looked at.
    notes: Vec<Finding>,
}

/// What is so, and what to do.
struct Finding {
    what: String,
    todo: &'static str,
}

impl Check {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let report = match self.look(server).await {
            Ok(report) => report,
            Err(error) => {
                server.report(&*error).await;
                return Ok(ExitCode::from(NOT_LOOKED));
            }
        };
        let mut screen = Screen::default();
        if self.json {
            screen.json(&report.as_json(&self.namespace));
        } else {
            report.show(&self.namespace, &mut screen);
        }
        screen.print()?;
        Ok(if report.problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FOUND)
        })
    }

    async fn look(&self, server: &Server) -> Result<Report, Box<dyn std::error::Error>> {
        let l2 = server.l2()?;
        let namespace = Namespace::find(&l2, &self.namespace).await?;
        let mut report = Report {
            partitions: namespace.number_of_partitions(),
            ..Report::default()
        };
        let before = match namespace.audit().await {
            Err(error) if error.is_refused() && !is_missing_right(&error) => {
                let todo = "mend that first: no cache works here";
                report.problem(with_causes(&error), todo);
                return Ok(report);
            }
            before => before?,
        };
        if !namespace.is_known() {
            return Err(unknown(&self.namespace));
        }
        report.look_at_partitions(&before);
        let watched = longest_staleness(&before) * NOTED_WITHIN;
        let watched = watched.min(LONGEST_WATCH);
        tokio::time::sleep(watched).await;
        let fleet = Watch::new(&l2).look(&self.namespace).await?;
        report.look_at_members(&before, &namespace.audit().await?, watched, fleet.as_ref());
        let stored = fleet.iter().flat_map(|fleet| fleet.stored.values());
        let old: BTreeSet<_> = stored.flat_map(|counted| &counted.mismatched).collect();
        if !old.is_empty() {
            let keys: Vec<_> = old.into_iter().map(|key| escaped(key)).collect();
            let todo =
                "see which change has not invalidated them: larder tail NS --last 20 --key KEY";
            report.note(
                format!("old values that verify has found: {}", keys.join(", ")),
                todo,
            );
        }
        let refused = fleet.map_or(0, |fleet| fleet.counters.unstorable_values);
        if refused > 0 {
            let todo = "see the reason at \"a value cannot be stored\" in the logs: each call loads such a value again";
            report.note(
                format!("values that could not be stored, so far: {refused}"),
                todo,
            );
        }
        report.look_at_keys(&namespace, self.keys).await?;
        let user = self.user.as_deref();
        match (namespace.missing_rights(user).await, user) {
            (Err(error), Some(user)) if error.is_refused() && !is_missing_right(&error) => {
                return Err(format!("Redis has no user {user}").into());
            }
            (missing, _) => {
                let has_writes = before.iter().any(|partition| partition.has_writes);
                report.look_at_rights(missing, has_writes)?;
            }
        }
        Ok(report)
    }
}

impl Report {
    fn problem(&mut self, what: impl Into<String>, todo: &'static str) {
        let what = what.into();
        self.problems.push(Finding { what, todo });
    }

    fn note(&mut self, what: impl Into<String>, todo: &'static str) {
        let what = what.into();
        self.notes.push(Finding { what, todo });
    }

    fn look_at_partitions(&mut self, partitions: &[PartitionAudit]) {
        for partition in partitions {
            let number = partition.state.partition.number;
            if partition.state.clock.epoch == 0 {
                let todo =
                    "all its values are misses; see which program deletes keys, and the policy";
                self.problem(format!("partition {number} has lost its clock"), todo);
            } else if partition.state.has_restarted {
                let todo = "the next instance that connects begins a new epoch. For a replica give the URL of the primary";
                let what =
                    format!("the server of partition {number} has restarted, or it is a replica");
                self.note(what, todo);
            }
            let state = match partition.log {
                LogState::Complete => None,
                LogState::Behind => Some("lacks the last message"),
                LogState::Ahead => Some("is ahead of the clock"),
                _ => Some("is of another type"),
            };
            if let Some(state) = state {
                let todo =
                    "the next change mends it; see which program writes to keys of the cache";
                self.problem(format!("the log of partition {number} {state}"), todo);
            }
            if partition.damaged_members > 0 {
                let todo = "instances remove them; see which program writes to keys of the cache";
                let many = partition.damaged_members;
                self.problem(format!("damaged entries of members: {many}"), todo);
            }
        }
        if partitions
            .iter()
            .any(|partition| partition.state.clock.is_off)
        {
            let todo = "larder switch NS on, when it is to be used again";
            self.note("it is switched off everywhere", todo);
        }
        // Partitions may share a server.
        let policies: BTreeSet<_> = partitions
            .iter()
            .map(|partition| &partition.policy)
            .collect();
        for policy in policies {
            if policy.starts_with("allkeys-") {
                let todo = "set maxmemory-policy to volatile-lru or noeviction";
                self.problem(format!("{policy} may evict the clock"), todo);
            } else if policy.is_empty() {
                let todo = "make sure that it is not allkeys-*";
                self.note("INFO hides the eviction policy", todo);
            }
        }
        if partitions.iter().any(|partition| partition.is_unnamed) {
            let todo = "old values may be answered for a few seconds after a restart or a failover";
            self.note("INFO hides master_replid", todo);
        }
        if partitions.iter().any(|partition| partition.hides_process) {
            let todo = "planned failovers of a cluster empty L2, as other failovers do";
            self.note("INFO hides run_id", todo);
        }
    }

    /// Compares two looks at the members.
    fn look_at_members(
        &mut self,
        before: &[PartitionAudit],
        after: &[PartitionAudit],
        watched: Duration,
        fleet: Option<&FleetState>,
    ) {
        let named = |id: u64| match fleet.and_then(|fleet| fleet.name(id)) {
            Some(name) => format!("member {id:x} ({})", escaped(name)),
            None => format!("member {id:x}"),
        };
        let (mut silent, mut behind) = (BTreeSet::new(), BTreeSet::new());
        let mut settings = BTreeMap::<_, usize>::new();
        let mut all = BTreeSet::new();
        for (before, after) in before.iter().zip(after) {
            let clock = before.state.clock;
            let is_one_epoch = clock.epoch == after.state.clock.epoch;
            for now in &after.members {
                let Member {
                    info,
                    applied,
                    note,
                } = *now;
                if all.insert(info.id) {
                    *settings.entry(info.max_staleness).or_default() += 1;
                }
                let known = before
                    .members
                    .iter()
                    .find(|member| member.info.id == info.id);
                let Some(then) = known else {
                    continue;
                };
                if then.note == note && watched >= info.max_staleness * NOTED_WITHIN {
                    silent.insert(info.id);
                } else if then.note != note
                    && is_one_epoch
                    && (applied.epoch != clock.epoch || applied.seq < clock.seq)
                {
                    behind.insert(info.id);
                }
            }
        }
        self.members = all.len();
        for id in silent {
            let todo =
                "it has crashed or hangs: invalidate_and_wait waits for it until it is forgotten";
            self.problem(format!("{} is silent", named(id)), todo);
        }
        for id in behind {
            let todo = "it is overloaded, or its messages are lost: see its log";
            self.problem(format!("{} is behind", named(id)), todo);
        }
        if settings.len() > 1 {
            let each = settings
                .iter()
                .map(|(staleness, many)| format!("{staleness:?} in {many}"));
            let each = each.collect::<Vec<_>>().join(", ");
            let todo = "give all instances one max_staleness";
            self.problem(format!("max_staleness differs: {each}"), todo);
        }
        if self.members == 0 {
            self.note("no instance is subscribed", "nothing, if none should run");
        }
    }

    async fn look_at_keys(&mut self, namespace: &Namespace, most: usize) -> Result<(), L2Error> {
        let [mut damaged, mut other, mut untagged, mut lost] = [const { Vec::new() }; 4];
        let mut keys = 0;
        let look = |key: &str, stored: &StoredKey| {
            keys += 1;
            let mut usable = stored.values.iter().flatten();
            let lacks_tag = |why: &UnusableReason| matches!(why, UnusableReason::UnknownTag(_));
            for (is_so, keys) in [
                (stored.values.iter().any(Result::is_err), &mut damaged),
                (stored.other_type.is_some(), &mut other),
                (
                    usable.any(|value| stored.why_not(value).iter().any(lacks_tag)),
                    &mut untagged,
                ),
                (
                    stored.mark.as_ref().is_some_and(|mark| mark.is_lost),
                    &mut lost,
                ),
            ] {
                if is_so {
                    keys.push(key.to_owned());
                }
            }
        };
        match namespace.each_key(most, look).await {
            Err(error) if is_missing_right(&error) => {
                self.note("values were not looked at", "give the user +scan");
                return Ok(());
            }
            are_all => self.are_all_keys = are_all?,
        }
        self.keys = keys;
        for (what, keys, todo) in [
            (
                "damaged values",
                damaged,
                "they are misses, and loads overwrite them; see what writes them",
            ),
            (
                "keys of another type",
                other,
                "another program has put them there: delete them",
            ),
            (
                "values whose tag versions are lost",
                untagged,
                "they are misses: Redis evicts too much; raise maxmemory",
            ),
            (
                "marks of writes that are lost",
                lost,
                "see what deletes or evicts the stream of writes",
            ),
        ] {
            if !keys.is_empty() {
                let named = keys
                    .iter()
                    .take(NAMED)
                    .map(String::as_str)
                    .collect::<Vec<_>>();
                self.problem(
                    format!("{what}: {} ({})", keys.len(), named.join(", ")),
                    todo,
                );
            }
        }
        Ok(())
    }

    fn look_at_rights(
        &mut self,
        missing: Result<Vec<MissingRights>, L2Error>,
        has_writes: bool,
    ) -> Result<(), L2Error> {
        let missing = match missing {
            Err(error) if is_missing_right(&error) => {
                let todo = "give the user +acl|dryrun +acl|whoami";
                self.note("rights were not looked at", todo);
                return Ok(());
            }
            missing => missing?,
        };
        for rights in missing {
            let (needed_for, lacks) = (rights.needed_for, rights.commands.join(", "));
            let what = format!("for {needed_for} the user lacks: {lacks}");
            match needed_for {
                RightsFor::EveryCache => self.problem(what, "larder's guide has a page on redis"),
                RightsFor::WriteBehind if has_writes => {
                    self.problem(what, "writes fail: give the user these rights");
                }
                // Redis does not say whether the service uses it.
                _ => self.note(what, "give the user these rights if the service uses it"),
            }
        }
        Ok(())
    }

    fn show(&self, namespace: &str, screen: &mut Screen) {
        screen.line(namespace);
        screen.row("partitions", self.partitions);
        screen.row("members", self.members);
        let all = if self.are_all_keys { "all" } else { "not all" };
        screen.row("keys", format_args!("{}, {all}", self.keys));
        for (name, findings) in [("problem", &self.problems), ("note", &self.notes)] {
            for Finding { what, todo } in findings {
                screen.line(format_args!("{name}:"));
                screen.sentence(what);
                screen.sentence(&format!("-> {todo}"));
            }
        }
        screen.row("problems", self.problems.len());
    }

    fn as_json(&self, namespace: &str) -> Value {
        let all = |findings: &[Finding]| {
            let each = findings.iter();
            let each = each.map(|Finding { what, todo }| json!({ "what": what, "todo": todo }));
            each.collect::<Vec<_>>()
        };
        json!({
            "namespace": namespace,
            "partitions": self.partitions,
            "members": self.members,
            "keys": self.keys,
            "are_all_keys": self.are_all_keys,
            "problems": all(&self.problems),
            "notes": all(&self.notes),
        })
    }
}

fn longest_staleness(partitions: &[PartitionAudit]) -> Duration {
    let members = partitions.iter().flat_map(|partition| &partition.members);
    let each = members.map(|member| member.info.max_staleness);
    each.max().unwrap_or_default()
}

/// Whether the user of the command may not look.
pub(crate) fn is_missing_right(error: &L2Error) -> bool {
    with_causes(error).contains("NOPERM")
}
