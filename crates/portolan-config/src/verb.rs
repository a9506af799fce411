//! What an operator can order, in the words of the command line. Shared by the command line and scenario files, so that
//! a rehearsed step is the step that is run.

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
}

impl OperatorVerb {
    /// Reads a verb from its words.
    pub fn parse(text: &str) -> Result<Self, VerbError> {
        let _ = text;
        Err(VerbError::Empty)
    }
}

/// Why a text is not an operator verb.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerbError {
    /// No words.
    #[error("an operator verb is missing")]
    Empty,
    /// The first word is none of the verbs.
    #[error("`{verb}` is not an operator verb")]
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
