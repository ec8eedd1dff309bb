//! When tags were invalidated: the tag versions of those that values have, and the list of the last ones (rule 20:
//! tags).

use std::collections::VecDeque;
use std::time::Duration;

use super::expiring::Expiring;
use crate::l2::{Stamp, TagVersion};

/// How many tags are listed.
const LISTED: usize = 64;

#[derive(Clone, Default)]
pub(super) struct Tags {
    /// Of a tag that values have: the version of its last invalidation.
    versions: Expiring<TagVersion>,
    /// The epoch of the list: no load of a former one is stored.
    epoch: u64,
    /// The tags that were invalidated last, with or without a tag version. The latest is at the end.
    list: VecDeque<(Box<str>, u64)>,
    /// The version of the last invalidation that the list lacks.
    lacking: u64,
}

impl Tags {
    /// The tag version, if the store has one.
    pub(super) fn version(&self, tag: &str, now: u64) -> Option<TagVersion> {
        self.versions.get(tag, now).copied()
    }

    /// The version of the last invalidation of a tag; without a tag version that, or a later one.
    pub(super) fn invalidated(&self, tag: &str, epoch: u64, now: u64) -> u64 {
        let version = self.version(tag, now).filter(|at| at.epoch == epoch);
        let listed = || self.list.iter().find(|(one, _)| **one == *tag);
        match version {
            Some(at) => at.ver,
            None if self.epoch != epoch => 0,
            None => listed().map_or(self.lacking, |(_, ver)| *ver),
        }
    }

    pub(super) fn invalidate(&mut self, tag: &str, stamp: Stamp) {
        let (epoch, ver, now) = (stamp.epoch, stamp.ver, stamp.written_at);
        // As SET with XX and KEEPTTL: a tag without a tag version has no values, and the list remembers its version.
        let left = self.versions.remaining(tag, now);
        if !left.is_zero() {
            (self.versions).insert(tag, TagVersion { epoch, ver }, now, left);
        }
        if self.epoch != epoch {
            (self.epoch, self.lacking) = (epoch, 0);
            self.list.clear();
        }
        self.list.retain(|(one, _)| **one != *tag);
        self.list.push_back((tag.into(), ver));
        // From here on each tag that is not listed counts as invalidated with this one: a fill that is rejected in vain
        // costs a load, and one that is accepted in vain an old value.
        if self.list.len() > LISTED
            && let Some((_, ver)) = self.list.pop_front()
        {
            self.lacking = ver;
        }
    }

    /// Has the tag version exist for at least so long.
    pub(super) fn keep(&mut self, tag: &str, epoch: u64, now: u64, kept: Duration) {
        let ver = self.invalidated(tag, epoch, now);
        // As PEXPIRE with GT: another value with the tag may be stored for longer, if it is of this epoch.
        let is_of_epoch = self.version(tag, now).is_some_and(|at| at.epoch == epoch);
        let left = if is_of_epoch {
            self.versions.remaining(tag, now)
        } else {
            Duration::ZERO
        };
        let kept = kept.max(left);
        (self.versions).insert(tag, TagVersion { epoch, ver }, now, kept);
    }
}
