//! What an operator can order, in the words of the command line. Shared by the command line and scenario files, so that
//! a rehearsed step is the step that is run.

use std::fmt;

use portolan_model::{NameError, RegionId, Revision};
use thiserror::Error;

/// An order to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorVerb {
    /// `drain REGION --reason TEXT`: take a region out of service gently.
    Drain {
        /// The region.
        region: RegionId,
        /// Why; empty when not given.
        reason: String,
    },
    /// `restore REGION`: end a drain.
    Restore {
        /// The region.
        region: RegionId,
    },
    /// `apply FILE`: put a document in force.
    Apply {
        /// Its path.
        file: String,
    },
    /// `rollback N`: put the document of an earlier revision in force again.
    Rollback {
        /// The earlier revision.
        to: Revision,
    },
    /// `limits fence REGION --reason TEXT [--alive]`: give the shares of a dead region to the others.
    Fence {
        /// The region.
        region: RegionId,
        /// Why; never empty.
        reason: String,
    },
    /// `limits unfence REGION`: give a fenced region its shares back.
    Unfence {
        /// The region.
        region: RegionId,
    },
}

impl OperatorVerb {
    /// Reads a verb from its words, as they are written on a command line; a text with spaces stands in quotes.
    pub fn parse(text: &str) -> Result<Self, VerbError> {
        let words = split(text)?;
        let mut words = words.iter().map(String::as_str).peekable();
        let parsed = match words.next() {
            None => return Err(VerbError::Empty),
            Some("drain") => {
                let region = region("drain", words.next())?;
                Self::Drain { region, reason: reason("drain", &mut words)?.unwrap_or_default() }
            }
            Some("restore") => Self::Restore { region: region("restore", words.next())? },
            Some("apply") => Self::Apply { file: argument("apply", words.next(), "a file")?.to_owned() },
            Some("rollback") => {
                let text = argument("rollback", words.next(), "a revision")?;
                let to = text.parse().map_err(|_| VerbError::BadRevision { text: text.to_owned() })?;
                Self::Rollback { to: Revision(to) }
            }
            Some("limits") => match words.next() {
                Some("fence") => {
                    let region = region(FENCE, words.next())?;
                    let reason = reason(FENCE, &mut words)?.filter(|reason| !reason.trim().is_empty());
                    // On a command line it is asked for where the region is heard; an order of a scenario is meant.
                    words.next_if_eq(&"--alive");
                    let what = "a text after --reason";
                    Self::Fence { region, reason: reason.ok_or(VerbError::MissingArgument { verb: FENCE, what })? }
                }
                Some("unfence") => Self::Unfence { region: region(UNFENCE, words.next())? },
                Some(word) => return Err(VerbError::UnexpectedWord { verb: "limits", word: word.to_owned() }),
                None => return Err(VerbError::MissingArgument { verb: "limits", what: "`fence` or `unfence`" }),
            },
            Some(verb) => return Err(VerbError::UnknownVerb { verb: verb.to_owned() }),
        };
        match words.next() {
            None => Ok(parsed),
            Some(word) => Err(VerbError::UnexpectedWord { verb: parsed.word(), word: word.to_owned() }),
        }
    }

    /// The words before its arguments.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Restore { .. } => "restore",
            Self::Apply { .. } => "apply",
            Self::Rollback { .. } => "rollback",
            Self::Fence { .. } => FENCE,
            Self::Unfence { .. } => UNFENCE,
        }
    }

    /// The region that it is about, where it is about one.
    pub const fn region(&self) -> Option<&RegionId> {
        match self {
            Self::Drain { region, .. }
            | Self::Restore { region }
            | Self::Fence { region, .. }
            | Self::Unfence { region } => Some(region),
            Self::Apply { .. } | Self::Rollback { .. } => None,
        }
    }
}

const FENCE: &str = "limits fence";

const UNFENCE: &str = "limits unfence";

/// As it is written on a command line.
impl fmt::Display for OperatorVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain { region, reason } if reason.is_empty() => write!(f, "drain {region}"),
            Self::Drain { region, reason } => write!(f, "drain {region} --reason \"{reason}\""),
            Self::Restore { region } => write!(f, "restore {region}"),
            Self::Apply { file } => write!(f, "apply {file}"),
            Self::Rollback { to } => write!(f, "rollback {to}"),
            Self::Fence { region, reason } => write!(f, "{FENCE} {region} --reason \"{reason}\""),
            Self::Unfence { region } => write!(f, "{UNFENCE} {region}"),
        }
    }
}

/// Why a text is not an operator verb.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerbError {
    /// No words.
    #[error("an operator verb is missing")]
    Empty,
    /// The first word is none of the verbs.
    #[error(
        "`{verb}` is not an operator verb; verbs are drain, restore, apply, rollback, limits fence, limits unfence"
    )]
    UnknownVerb {
        /// The first word.
        verb: String,
    },
    /// The verb stands alone.
    #[error("`{verb}` needs {what}")]
    MissingArgument {
        /// The verb.
        verb: &'static str,
        /// What must follow.
        what: &'static str,
    },
    /// A word that the verb does not take.
    #[error("`{verb}` does not take `{word}`")]
    UnexpectedWord {
        /// The verb.
        verb: &'static str,
        /// The word.
        word: String,
    },
    /// A region's name is malformed.
    #[error("`{text}` is not a region: {source}")]
    BadRegion {
        /// The word.
        text: String,
        /// Why.
        source: NameError,
    },
    /// A revision is a number.
    #[error("`{text}` is not a revision number")]
    BadRevision {
        /// The word.
        text: String,
    },
    /// A quote is opened and not closed.
    #[error("a quote is not closed")]
    OpenQuote,
}

fn region(verb: &'static str, word: Option<&str>) -> Result<RegionId, VerbError> {
    let text = argument(verb, word, "a region")?;
    RegionId::new(text).map_err(|source| VerbError::BadRegion { text: text.to_owned(), source })
}

/// The text of `--reason`, or of `--reason=TEXT`; `None` without it.
fn reason<'w>(verb: &'static str, words: &mut impl Iterator<Item = &'w str>) -> Result<Option<String>, VerbError> {
    let Some(word) = words.next() else { return Ok(None) };
    let reason = match word.strip_prefix("--reason=") {
        Some(reason) => reason,
        None if word == "--reason" => argument(verb, words.next(), "a text after --reason")?,
        None => return Err(VerbError::UnexpectedWord { verb, word: word.to_owned() }),
    };
    Ok(Some(reason.to_owned()))
}

fn argument<'w>(verb: &'static str, word: Option<&'w str>, what: &'static str) -> Result<&'w str, VerbError> {
    word.ok_or(VerbError::MissingArgument { verb, what })
}

/// Splits at spaces outside of single or double quotes.
fn split(text: &str) -> Result<Vec<String>, VerbError> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut within) = (None, false);
    for character in text.chars() {
        match quote {
            Some(open) if character == open => quote = None,
            None if matches!(character, '"' | '\'') => {
                quote = Some(character);
                if !within {
                    words.push(String::new());
                }
                within = true;
            }
            None if character.is_whitespace() => within = false,
            _ => {
                if !within {
                    words.push(String::new());
                }
                within = true;
                words.last_mut().expect("a word was begun").push(character);
            }
        }
    }
    if quote.is_some() { Err(VerbError::OpenQuote) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_reads_as_on_the_command_line() {
        let check = |text: &str, expected: &str| {
            let verb = OperatorVerb::parse(text);
            let shown = verb.map_or_else(|error| format!("error: {error}"), |verb| verb.to_string());
            assert_eq!(shown, expected, "{text}");
        };
        check("drain eu-west --reason test", "drain eu-west --reason \"test\"");
        check("drain eu-west --reason 'planned work'", "drain eu-west --reason \"planned work\"");
        check("drain eu-west --reason=test", "drain eu-west --reason \"test\"");
        check("drain eu-west", "drain eu-west");
        check("restore  eu-west ", "restore eu-west");
        check("apply \"a b.yaml\"", "apply a b.yaml");
        check("rollback 7", "rollback 7");
        check("limits fence eu-west --reason 'it burnt down'", "limits fence eu-west --reason \"it burnt down\"");
        check("limits fence eu-west --reason=dead", "limits fence eu-west --reason \"dead\"");
        check("limits fence eu-west --reason dead --alive", "limits fence eu-west --reason \"dead\"");
        check("limits unfence eu-west", "limits unfence eu-west");
        check("limits", "error: `limits` needs `fence` or `unfence`");
        check("limits explain alice", "error: `limits` does not take `explain`");
        check("limits fence", "error: `limits fence` needs a region");
        check("limits fence eu-west", "error: `limits fence` needs a text after --reason");
        check("limits fence eu-west --reason ''", "error: `limits fence` needs a text after --reason");
        check("limits unfence eu-west --reason x", "error: `limits unfence` does not take `--reason`");
        check("", "error: an operator verb is missing");
        let unknown =
            "is not an operator verb; verbs are drain, restore, apply, rollback, limits fence, limits unfence";
        check("drein eu-west", &format!("error: `drein` {unknown}"));
        check("drain", "error: `drain` needs a region");
        check("drain EU", "error: `EU` is not a region: a name is made of a-z, 0-9 and `-`, not `E`");
        check("drain eu-west --now", "error: `drain` does not take `--now`");
        check("drain eu-west --reason", "error: `drain` needs a text after --reason");
        check("restore eu-west us-east", "error: `restore` does not take `us-east`");
        check("rollback seven", "error: `seven` is not a revision number");
        check("apply 'x", "error: a quote is not closed");
    }
}
