//! A figure of every contestant, and how it is shown.

use super::contestants::Contestant;

/// One row of the table, one panel of the picture.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) better: Better,
    /// Of each contestant by its name, Segue's first.
    pub(crate) values: Vec<(&'static str, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

impl Figure {
    pub(crate) fn new(name: &str, better: Better, contestants: &[Contestant], values: Vec<f64>) -> Self {
        let names = contestants.iter().map(|contestant| contestant.name);
        Self { name: name.to_owned(), better, values: names.zip(values).collect() }
    }

    /// Each contestant's value, and Segue's as a ratio of it.
    pub(crate) fn row(&self) -> String {
        let ours = self.values[0].1;
        let cells = self.values.iter().map(|(name, value)| format!("{name:>8} {value:>9.1} ({:.2})", ours / value));
        format!("{:<46}{}", self.name, cells.collect::<Vec<_>>().join("  "))
    }
}
