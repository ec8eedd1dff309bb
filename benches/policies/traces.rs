//! The sequences of keys that are looked up: each from a seed, so that every run has the same.

use fastrand::Rng;

/// How many keys there are, but for those of scans.
pub(crate) const KEYS: usize = 200_000;

/// A sequence of look-ups.
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) keys: Vec<u64>,
}

impl Trace {
    fn new(name: impl Into<String>, keys: impl Iterator<Item = usize>, length: usize) -> Self {
        Self {
            name: name.into(),
            // A key says nothing of its rank, and no two have the same: each step can be undone.
            keys: keys.take(length).map(|key| mixed(key as u64)).collect(),
        }
    }
}

/// Of so many look-ups each, for a cache of this capacity.
pub(crate) fn all(length: usize, capacity: usize) -> Vec<Trace> {
    vec![
        Trace::new("Zipf 0.7", Zipf::new(0.7), length),
        Trace::new("Zipf 1.0", Zipf::new(1.0), length),
        Trace::new("Zipf 1.0 with scans", with_scans(), length),
        Trace::new("shifting Zipf 1.0", shifting(), length),
        Trace::new(
            "loop of 1.1 times the capacity",
            round_and_round(capacity),
            length,
        ),
    ]
}

/// Keys by rank, from zero: that of rank r is drawn with a probability proportional to 1 / (r + 1) ^ skew.
struct Zipf {
    /// The share of the keys up to each rank.
    shares: Vec<f64>,
    rng: Rng,
}

impl Zipf {
    #[allow(clippy::cast_precision_loss, reason = "there are far fewer keys")]
    fn new(skew: f64) -> Self {
        let mut shares: Vec<f64> = (1..=KEYS)
            .scan(0.0, |sum, rank| {
                *sum += (rank as f64).powf(-skew);
                Some(*sum)
            })
            .collect();
        let sum = shares[KEYS - 1];
        for share in &mut shares {
            *share /= sum;
        }
        Self {
            shares,
            rng: Rng::with_seed(1),
        }
    }
}

impl Iterator for Zipf {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let drawn = self.rng.f64();
        let rank = self.shares.partition_point(|&share| share <= drawn);
        Some(rank.min(KEYS - 1))
    }
}

/// After each 20 000 look-ups, 5 000 keys in a row that nobody else asks for: 40 scans begin anew.
fn with_scans() -> impl Iterator<Item = usize> {
    let mut popular = Zipf::new(1.0);
    (0..).flat_map(move |scan| {
        let popular: Vec<usize> = popular.by_ref().take(20_000).collect();
        let first = KEYS + scan % 40 * 5_000;
        popular.into_iter().chain(first..first + 5_000)
    })
}

/// Every 100 look-ups, a key that is drawn by its popularity changes places with any other.
fn shifting() -> impl Iterator<Item = usize> {
    let mut of_rank: Vec<usize> = (0..KEYS).collect();
    let (mut ranks, mut changed, mut rng) = (Zipf::new(1.0), Zipf::new(1.0), Rng::with_seed(2));
    changed.rng = Rng::with_seed(3);
    (0_usize..).map_while(move |nth| {
        if nth % 100 == 0 {
            of_rank.swap(changed.next()?, rng.usize(..KEYS));
        }
        Some(of_rank[ranks.next()?])
    })
}

fn round_and_round(capacity: usize) -> impl Iterator<Item = usize> {
    (0..capacity + capacity / 10).cycle()
}

/// The steps of `SplitMix64`.
pub(crate) fn mixed(key: u64) -> u64 {
    let key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let key = (key ^ key >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ key >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ key >> 31
}
