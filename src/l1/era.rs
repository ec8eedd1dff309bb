//! Eras: an entry's first hit in each era is reported to moka, and to the size advisor, in eras of its own. Hits without
//! inserts cost nothing more: where no entry comes, none has to go.

/// How many eras pass while L1 gains as many entries as it holds. The hit rate is the same with one era, with eight, and if
/// all hits are reported to moka (`cargo bench -p benches --bench policies`); with one era a small cache now and then forgets an
/// entry that is hit all the time.
const ERAS_PER_TURNOVER: u64 = 4;

/// Whether an era ends, by the number of new entries in it and of all entries.
pub(super) fn is_over(new_entries: u64, entries: u64) -> bool {
    new_entries > entries / ERAS_PER_TURNOVER
}

/// The number of an era of moka, up to [`MAX_ERA`]. After the highest number comes zero: an entry that had the same number then has been
/// evicted long since.
pub(super) type Era = u32;

pub(super) const MAX_ERA: u32 = 0xffff;

pub(super) fn next(era: Era) -> Era {
    (era + 1) & MAX_ERA
}
