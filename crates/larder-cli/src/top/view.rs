//! How `top` shows what it knows: as lines of a width, of which ratatui makes a page, or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use larder::inspect::PartitionAudit;
use ratatui::layout::Rect;
use ratatui::style::Stylize;
use ratatui::text::{Line, Text};
use serde_json::{Value, json};

use super::fleets::{Fleet, Fleets, MemberRow, hit_rate};
use crate::text::{age, escaped, millis, wrapped};

/// Between two columns.
const GAP: usize = 2;
/// A name is not cut to fewer columns.
const SHORTEST_NAME: usize = 12;

/// A line, and how it looks.
pub(super) struct Shown {
    pub(super) text: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Heading,
    /// Something is wrong.
    Bad,
}

impl Shown {
    fn new(text: impl Into<String>, kind: Kind) -> Self {
        let text = text.into();
        Self { text, kind }
    }
}

/// The page of a terminal of this size.
pub(super) fn page(fleets: &Fleets, every: Duration, area: Rect) -> Text<'static> {
    let (columns, rows) = (usize::from(area.width), usize::from(area.height));
    let title = format!("larder top, every {every:?}; q ends it");
    let mut lines = vec![Line::from(title).dim()];
    for Shown { text, kind } in self::lines(fleets, columns, Some(rows.saturating_sub(1))) {
        let line = Line::from(text);
        lines.push(match kind {
            Kind::Plain => line,
            Kind::Heading => line.bold(),
            Kind::Bad => line.red(),
        });
    }
    Text::from(lines)
}

/// All of it in lines of a width, and in so many rows at most.
pub(super) fn lines(fleets: &Fleets, columns: usize, rows: Option<usize>) -> Vec<Shown> {
    let mut lines = Vec::new();
    let mut say = |text: String, kind| {
        let text = wrapped(&escaped(&text), columns).into_iter();
        lines.extend(text.map(|line| Shown::new(line, kind)));
    };
    for (node, memory) in servers(fleets) {
        say(format!("{node} {memory}"), Kind::Plain);
    }
    if !fleets.are_all {
        say("not all keys were scanned".to_owned(), Kind::Plain);
    }
    // Each error once: while a server is away, all caches on it have the same one.
    let mut errors = BTreeMap::<&str, Vec<&str>>::new();
    for (name, fleet) in &fleets.each {
        if let Some(error) = &fleet.error {
            errors.entry(error).or_default().push(name);
        }
    }
    for (error, names) in errors {
        match *names {
            [first] => say(format!("{first}: {error}"), Kind::Bad),
            [first, ref more @ ..] => {
                say(
                    format!("{first} and {} more: {error}", more.len()),
                    Kind::Bad,
                );
            }
            [] => {}
        }
    }

    let room = |lines: &[Shown]| rows.map(|rows| rows.saturating_sub(lines.len() + 2));
    let rows_of = fleets
        .each
        .iter()
        .map(|(name, fleet)| namespace(name, fleet));
    lines.push(Shown::new("", Kind::Plain));
    let table = table(&NAMESPACES, rows_of.collect(), columns, room(&lines));
    lines.extend(table);

    let members = fleets.each.iter().flat_map(|(name, fleet)| {
        let rows = fleet.members().into_iter();
        rows.map(move |row| member(name, &row))
    });
    let mut members: Vec<_> = members.collect();
    // As each namespace has them; what is wrong comes before the others, as not all may have room.
    members.sort_by_key(|row| row.kind == Kind::Plain);
    let left = room(&lines);
    if !members.is_empty() && left.is_none_or(|left| left > 1) {
        lines.push(Shown::new("", Kind::Plain));
        lines.extend(self::table(&MEMBERS, members, columns, left));
    }
    lines
}

/// The servers and their memory. Partitions may share one.
fn servers(fleets: &Fleets) -> BTreeMap<&str, String> {
    let states = fleets
        .each
        .values()
        .filter_map(|fleet| fleet.state.as_ref());
    let partitions = states.flat_map(|state| &state.partitions);
    partitions
        .map(|partition| (&*partition.state.node, memory(partition)))
        .collect()
}

fn memory(partition: &PartitionAudit) -> String {
    match (partition.used_memory, partition.maxmemory) {
        (None, _) => "memory not known".to_owned(),
        (Some(used), None) => format!("{} used", bytes(used)),
        (Some(used), Some(0)) => format!("{} used, no limit", bytes(used)),
        (Some(used), Some(most)) => format!("{} of {}", bytes(used), bytes(most)),
    }
}

/// The columns of namespaces. What does not fit is left out, from the end.
const NAMESPACES: [&str; 15] = [
    "namespace",
    "inst",
    "on",
    "lag",
    "hit%",
    "chg/s",
    "lookups",
    "loads",
    "failed",
    "unstored",
    "errors",
    "opened",
    "log",
    "read",
    "written",
];

fn namespace(name: &str, fleet: &Fleet) -> Row {
    let none = || "-".to_owned();
    let mut cells = vec![escaped(name)];
    if let Some(state) = &fleet.state {
        let members = fleet.members();
        let lag = members
            .iter()
            .map(|row| row.lag)
            .try_fold(0, |most, lag| Some(lag?.max(most)));
        let running = members.iter().filter(|row| row.is_silent() != Some(true));
        let shares = running.clone().filter_map(|row| row.counted.as_ref());
        let shares = shares.map(|counted| counted.share);
        let on = match shares.reduce(f64::min) {
            _ if fleet.is_off() => "off".to_owned(),
            None => none(),
            Some(1.0) => "all".to_owned(),
            Some(share) => percent(share),
        };
        let counted = &state.counters;
        let lookups = counted.l1_hits + counted.l2_hits + counted.l2_misses;
        cells.extend([
            running.count().to_string(),
            on,
            lag.map_or_else(none, short),
            hit_rate(counted).map_or_else(none, |rate| format!("{:.1}", rate * 100.0)),
            fleet.rate.map_or_else(none, |rate| format!("{rate:.1}")),
            short(lookups),
            short(counted.loads),
            short(counted.load_failures),
            short(counted.unstorable_values),
            short(counted.l2_errors),
            short(counted.l2_breaker_opened),
            short(
                state
                    .partitions
                    .iter()
                    .map(|partition| partition.log_length)
                    .sum(),
            ),
            bytes(counted.l2_read_bytes),
            bytes(counted.l2_written_bytes),
        ]);
    }
    let kind = if fleet.error.is_some() || fleet.is_off() {
        Kind::Bad
    } else {
        Kind::Plain
    };
    Row { cells, kind }
}

const MEMBERS: [&str; 7] = [
    "member",
    "namespace",
    "lag",
    "noted",
    "counted",
    "release",
    "instance",
];

fn member(namespace: &str, row: &MemberRow) -> Row {
    let after = if row.is_seen { "" } else { ">" };
    let noted = format!("{after}{}", age(row.noted));
    let (noted, kind) = match row.is_silent() {
        Some(true) => (format!("silent {noted}"), Kind::Bad),
        _ => (noted, Kind::Plain),
    };
    let cells = vec![
        format!("{:x}", row.id),
        escaped(namespace),
        row.lag.map_or_else(|| "-".to_owned(), short),
        noted,
        (row.counted.as_ref()).map_or_else(|| "-".to_owned(), |counted| age(counted.ago)),
        release(row).map_or_else(|| "-".to_owned(), escaped),
        instance(row).map_or_else(|| "-".to_owned(), escaped),
    ];
    Row { cells, kind }
}

fn release(row: &MemberRow) -> Option<&str> {
    row.counted.as_ref()?.release.as_deref()
}

fn instance(row: &MemberRow) -> Option<&str> {
    row.counted.as_ref()?.name.as_deref()
}

/// A row of a table; cells that are missing are empty.
struct Row {
    cells: Vec<String>,
    kind: Kind,
}

/// A table in so many columns and rows: the first column is cut if it has to be, and then columns are left out.
fn table(heading: &[&str], mut rows: Vec<Row>, columns: usize, room: Option<usize>) -> Vec<Shown> {
    let all = rows.len();
    let fits = room.is_none_or(|room| all < room);
    if let Some(room) = room.filter(|_| !fits) {
        // The heading, and how many are left out.
        rows.truncate(room.saturating_sub(2));
    }
    let width_of = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.cells.get(at));
        let widths = cells.map(|cell| cell.chars().count());
        widths
            .chain([heading.get(at).map_or(0, |name| name.len())])
            .max()
            .unwrap_or(0)
    };
    let mut widths: Vec<_> = (0..heading.len()).map(width_of).collect();
    let mut name = widths.first().copied().unwrap_or(0);
    let shortest = name.min(SHORTEST_NAME);
    let others = |widths: &[usize]| {
        widths
            .iter()
            .skip(1)
            .map(|width| GAP + width)
            .sum::<usize>()
    };
    while widths.len() > 1 && shortest + others(&widths) > columns {
        widths.pop();
    }
    name = name.min(columns.saturating_sub(others(&widths)));
    if let Some(first) = widths.first_mut() {
        *first = name;
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // Names to the left, numbers to the right.
            let is_name = at == 0 || heading.get(at) == Some(&"namespace");
            let gap = if at == 0 { 0 } else { GAP };
            let cell = cut(cell, *width);
            text.push_str(&" ".repeat(gap));
            // Into a string, so it does not fail.
            _ = if is_name {
                write!(text, "{cell:<width$}")
            } else {
                write!(text, "{cell:>width$}")
            };
        }
        text
    };
    let names: Vec<_> = heading.iter().map(ToString::to_string).collect();
    let mut lines = vec![Shown::new(line(&names), Kind::Heading)];
    lines.extend(
        rows.iter()
            .map(|row| Shown::new(line(&row.cells), row.kind)),
    );
    let more = all - rows.len();
    if more > 0 {
        lines.push(Shown::new(format!("and {more} more"), Kind::Plain));
    }
    lines
}

/// A text of so many characters at most; of one that was cut, the last one says so.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept = text.chars().take(most.saturating_sub(1));
    kept.chain(['…']).take(most).collect()
}

/// A number in six characters at most, up to 10^15.
fn short(number: u64) -> String {
    let (mut rest, mut unit) = (number, "");
    for next in ["k", "M", "G", "T"] {
        if rest < 10_000 {
            break;
        }
        (rest, unit) = (rest / 1000, next);
    }
    format!("{rest}{unit}")
}

/// A share, exact to the places that a cache tells.
fn percent(share: f64) -> String {
    format!("{}%", (share * 1e6).round() / 1e4)
}

fn bytes(number: u64) -> String {
    let (mut rest, mut unit) = (number, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if rest < 10_240 {
            break;
        }
        (rest, unit) = (rest / 1024, next);
    }
    format!("{rest} {unit}")
}

/// All of it, for programs.
pub(super) fn as_json(fleets: &Fleets) -> Value {
    let namespaces = fleets.each.iter().map(|(name, fleet)| {
        let Some(state) = &fleet.state else {
            return json!({ "namespace": name, "error": fleet.error });
        };
        let members = fleet.members().into_iter().map(|row| {
            json!({
                "id": format!("{:x}", row.id),
                "lag": row.lag,
                "max_staleness_ms": millis(row.max_staleness),
                "noted_ms": row.is_seen.then(|| millis(row.noted)),
                "unchanged_ms": millis(row.noted),
                "is_silent": row.is_silent(),
                "share": row.counted.as_ref().map(|counted| counted.share),
                "counted_ms": row.counted.as_ref().map(|counted| millis(counted.ago)),
                "release": release(&row),
                "instance": instance(&row),
                "up_ms": row.counted.as_ref().map(|counted| millis(counted.up)),
            })
        });
        json!({
            "namespace": name,
            "error": fleet.error,
            "partitions": state.partitions.len(),
            "is_off": fleet.is_off(),
            "members": members.collect::<Vec<_>>(),
            "changes_per_second": fleet.rate,
            "hit_rate": hit_rate(&state.counters),
            "log": state.partitions.iter().map(|partition| partition.log_length).sum::<u64>(),
            "counters": state.counters.iter().collect::<BTreeMap<_, _>>(),
        })
    });
    let states = fleets
        .each
        .values()
        .filter_map(|fleet| fleet.state.as_ref());
    let partitions = states.flat_map(|state| &state.partitions);
    let servers: BTreeMap<_, _> = partitions
        .map(|partition| (&*partition.state.node, partition))
        .collect();
    let servers = servers.into_iter().map(|(node, partition)| {
        json!({
            "node": node,
            "used_memory": partition.used_memory,
            "maxmemory": partition.maxmemory,
        })
    });
    json!({
        "are_all": fleets.are_all,
        "servers": servers.collect::<Vec<_>>(),
        "namespaces": namespaces.collect::<Vec<_>>(),
    })
}
