//! Makes `benches/README.md` and its plots, and a table of the guide, out of what the benches have measured.
//!
//! `collect` takes what criterion has left in the target directory, and notes the machine, in `benches/data`.
//! Without it, tables and plots are made anew from `benches/data` alone. See `benches/run.sh`.
//!
//! `chaos FIGURES PLOT` draws what `tests/chaos.sh` has measured, and nothing else.

mod chaos;
mod data;
mod fleet;
mod goals;
mod growth;
mod machine;
mod peers;
mod plots;
mod readme;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [command, figures, plot] = &*arguments
        && command == "chaos"
    {
        return chaos::draw(Path::new(figures), Path::new(plot));
    }
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if arguments
        .first()
        .is_some_and(|command| command == "collect")
    {
        data::write(&benches, "growth", &growth::collect(&criterion(&benches))?)?;
        data::write(&benches, "machine", &machine::this()?)?;
    }
    let mut growth: Vec<growth::Point> = data::read(&benches, "growth")?;
    let fleets: Vec<fleet::Fleet> = data::read(&benches, "fleet")?;
    growth.extend(fleet::points(&fleets));
    plots::draw(&benches.join("plots"), &growth)?;
    let plot = benches.join("plots/chaos.svg");
    chaos::draw(&benches.join("data/chaos.json"), &plot)?;
    let parts = [
        ("machine", machine::table(&data::read(&benches, "machine")?)),
        (
            "goals",
            goals::table(&data::read::<Vec<_>>(&benches, "ratios")?),
        ),
        ("codecs", growth::codecs(&growth)),
        (
            "peers",
            peers::table(&data::read::<Vec<_>>(&benches, "peers")?),
        ),
    ];
    readme::fill(&benches.join("README.md"), &parts)?;
    let guide = benches.join("../src/guide/redis.md");
    readme::fill(&guide, &[("fleet", fleet::table(&fleets))])
}

/// Where criterion keeps its figures.
fn criterion(benches: &Path) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| benches.join("../target"), PathBuf::from);
    target.join("criterion")
}
