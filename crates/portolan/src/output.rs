//! How answers look: aligned tables for people, JSON for programs. Decides nothing else.

use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
    process,
};

use clap::ValueEnum;
use serde_json::Value;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; may change between releases.
    #[default]
    Text,
    /// One JSON document on standard output; fields are only ever added.
    Json,
    /// JUnit XML, of `simulate` alone.
    Junit,
    /// Markdown for a comment, of `simulate` alone.
    Markdown,
}

impl Format {
    /// Whether every command has it.
    pub const fn is_common(self) -> bool {
        matches!(self, Self::Text | Self::Json)
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub fn print(self, value: &Value, text: impl FnOnce() -> String) {
        match self {
            Self::Json => put(format_args!("{value:#}\n")),
            Self::Text | Self::Junit | Self::Markdown => put(text()),
        }
    }
}

/// Writes to standard output; ends the program where nobody reads it any more, as a shell tells of one that a closed pipe
/// ended.
pub fn put(text: impl Display) {
    let mut out = io::stdout().lock();
    if let Err(error) = write!(out, "{text}").and_then(|()| out.flush()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("portolan: cannot write to standard output: {error}");
        }
        process::exit(CLOSED_PIPE);
    }
}

/// 128 and the number of the signal.
const CLOSED_PIPE: i32 = 141;

/// Columns of text, as wide as their widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with its head.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_owned).to_vec()] }
    }

    /// Whether there is nothing but the head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["region", "role"]);
        table.row(["ap-southeast".to_owned(), "leader".to_owned()]);
        assert_eq!(table.to_string(), "region        role\nap-southeast  leader\n");
    }
}
