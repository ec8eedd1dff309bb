//! Rounds in which all entrants take turns.

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
    /// There are no figures, only words.
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
    /// Why there are no figures, or what was observed.
    Said(String),
}

/// One way's part in rows that are measured together.
pub struct Entrant<'a, const ROWS: usize> {
    pub name: &'static str,
    pub two_levels: bool,
    /// Measures one round; or the reason why this way cannot be measured.
    pub round: Result<Round<'a, ROWS>, String>,
}

/// One figure for each row.
pub type Round<'a, const ROWS: usize> = Box<dyn FnMut() -> [f64; ROWS] + 'a>;

/// Measures all entrants once in every round. Each round begins with another entrant.
pub fn take_turns<const ROWS: usize>(
    titles: [Title; ROWS],
    rounds: usize,
    mut entrants: Vec<Entrant<'_, ROWS>>,
) -> Vec<Row> {
    let count = entrants.len();
    let mut figures = vec![[const { Vec::new() }; ROWS]; count];
    for round in 0..rounds {
        for turn in 0..count {
            let entrant = (round + turn) % count;
            let Ok(measure) = &mut entrants[entrant].round else {
                continue;
            };
            for (figures, figure) in figures[entrant].iter_mut().zip(measure()) {
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
