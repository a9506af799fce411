//! What is wrong in a text, where, and what to write in its place. Never decides whether something is wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{SourceFile, syntax::without_byte_order_mark};

/// One thing wrong in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The file as its author knows it.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line's text, or the part around the place when the line is long; tabs shown as spaces.
    pub snippet: String,
    /// Where the place starts in the snippet, in characters from 0.
    pub indent: usize,
    /// How many characters of the snippet the place covers, at least 1.
    pub width: usize,
    /// What is wrong, with the value in backticks.
    pub message: String,
    /// What to write in its place.
    pub remedy: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// All faults of a text, in the order of their positions; at most 100, and the last says when there were more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// For a terminal: each fault with its line, a caret under the place and the remedy below, then their number.
    pub fn render(&self) -> String {
        let gutter = self.0.iter().map(|fault| fault.line.to_string().len()).max().unwrap_or(1);
        let mut text = String::new();
        for fault in &self.0 {
            let Fault { path, line, column, snippet, message, .. } = fault;
            let (indent, carets) = (" ".repeat(fault.indent), "^".repeat(fault.width.max(1)));
            text += &format!("{path}:{line}:{column}: {message}\n");
            if !snippet.is_empty() {
                text += &format!("{line:>gutter$} | {snippet}\n{:gutter$} | {indent}{carets}\n", "");
            }
            if let Some(remedy) = &fault.remedy {
                text += &format!("{:gutter$} = {remedy}\n", "");
            }
            text.push('\n');
        }
        text + &match self.0.len() {
            1 => "1 fault".to_owned(),
            count => format!("{count} faults"),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A place in a text: line and column from 1, width in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

impl Span {
    /// Where a file begins.
    pub const START: Self = Self { line: 1, column: 1, width: 1 };
}

/// Collects the faults of one file.
pub(crate) struct Report<'a> {
    file: &'a SourceFile,
    faults: Vec<Fault>,
    untold: usize,
}

impl<'a> Report<'a> {
    pub fn new(file: &'a SourceFile) -> Self {
        Self { file, faults: Vec::new(), untold: 0 }
    }

    pub fn file(&self) -> &'a SourceFile {
        self.file
    }

    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether more faults are only counted.
    pub fn is_full(&self) -> bool {
        self.faults.len() >= MAX_FAULTS
    }

    /// Notes a fault. Beyond [`MAX_FAULTS`] it is only counted.
    pub fn fault(&mut self, at: Span, message: impl Into<String>, remedy: impl Into<Option<String>>) {
        if self.is_full() {
            self.untold += 1;
            return;
        }
        let text = without_byte_order_mark(&self.file.text);
        let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or("");
        let (snippet, indent, width) = window(line, at);
        self.faults.push(Fault {
            path: self.file.path.clone(),
            line: at.line,
            column: at.column,
            snippet,
            indent,
            width,
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// The value, if it was read and nothing was wrong; otherwise every fault, by position.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Faults> {
        match value {
            Some(value) if self.faults.is_empty() => Ok(value),
            _ => {
                debug_assert!(!self.faults.is_empty(), "a decoder gave up without saying why");
                Err(self.take())
            }
        }
    }

    /// All faults so far, by position.
    pub fn take(&mut self) -> Faults {
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        if let Some(last) = self.faults.last_mut().filter(|_| self.untold > 0) {
            let untold = format!("{} more faults are not shown", self.untold);
            last.remedy = Some(last.remedy.take().map_or(untold.clone(), |remedy| format!("{remedy}; {untold}")));
        }
        Faults(std::mem::take(&mut self.faults))
    }
}

/// Cuts a line down to what a terminal shows, and says where the place is in it.
fn window(line: &str, at: Span) -> (String, usize, usize) {
    let column = at.column.saturating_sub(1);
    let skipped = if column > MAX_SNIPPET / 2 && line.chars().count() > MAX_SNIPPET { column - 20 } else { 0 };
    let shown = line.trim_end().chars().skip(skipped).take(MAX_SNIPPET);
    let snippet: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let indent = column - skipped;
    let room = snippet.chars().count().saturating_sub(indent);
    (snippet, indent, at.width.clamp(1, room.max(1)))
}

/// Faults that are told one by one: more than anybody mends in one go.
const MAX_FAULTS: usize = 100;

/// Characters of a line that are shown.
const MAX_SNIPPET: usize = 120;
