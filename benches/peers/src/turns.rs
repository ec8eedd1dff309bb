//! Rounds in which all take turns.

/// A row of the table: what one thing costs each way.
pub struct Row {
    pub title: Title,
    pub lines: Vec<Line>,
}

#[derive(Clone)]
pub struct Title {
    pub text: String,
    pub unit: Unit,
}

#[derive(Clone, Copy)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    PerSecond,
    Loads,
    /// There is nothing to count, only something to say.
    Words,
}

pub struct Line {
    pub name: &'static str,
    pub two_levels: bool,
    pub outcome: Outcome,
}

pub enum Outcome {
    /// One figure of each round.
    Figures(Vec<f64>),
    /// Why there are none, or what was seen.
    Said(String),
}

/// One way's part in rows that are measured together.
pub struct Entrant<'a, const ROWS: usize> {
    pub name: &'static str,
    pub two_levels: bool,
    /// Measures one round; or why this way cannot.
    pub round: Result<Round<'a, ROWS>, String>,
}

/// One figure for each row.
pub type Round<'a, const ROWS: usize> = Box<dyn FnMut() -> [f64; ROWS] + 'a>;

/// Measures all of them once in every round, each time beginning with another one.
pub fn take_turns<const ROWS: usize>(
    titles: [Title; ROWS],
    rounds: usize,
    mut entrants: Vec<Entrant<'_, ROWS>>,
) -> Vec<Row> {
    let count = entrants.len();
    let mut figures = vec![[const { Vec::new() }; ROWS]; count];
    for round in 0..rounds {
        for turn in 0..count {
            let who = (round + turn) % count;
            let Ok(measure) = &mut entrants[who].round else {
                continue;
            };
            for (figures, figure) in figures[who].iter_mut().zip(measure()) {
                figures.push(figure);
            }
        }
    }
    let row = |(row, title): (usize, Title)| {
        let lines = entrants
            .iter()
            .zip(&figures)
            .map(|(entrant, figures)| Line {
                name: entrant.name,
                two_levels: entrant.two_levels,
                outcome: match &entrant.round {
                    Ok(_) => Outcome::Figures(figures[row].clone()),
                    Err(reason) => Outcome::Said(reason.clone()),
                },
            });
        Row {
            title,
            lines: lines.collect(),
        }
    };
    titles.into_iter().enumerate().map(row).collect()
}
