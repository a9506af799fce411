//! What an operator hands over: one document and the files it names. Never opens any of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gateway;

/// One text with the path by which faults name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// As the person who wrote it knows it; never opened.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// A gateway document with everything it refers to, so that every node can check and run it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The document itself.
    pub document: SourceFile,
    /// Files that the document names, by the name written there.
    pub attachments: BTreeMap<String, String>,
}

impl Bundle {
    /// Bytes of all texts together.
    pub fn bytes(&self) -> usize {
        let attachments = self.attachments.iter().map(|(name, text)| name.len() + text.len());
        self.document.path.len() + self.document.text.len() + attachments.sum::<usize>()
    }

    /// Whether both hold the same texts, whatever their document is called.
    pub fn same_content(&self, other: &Self) -> bool {
        self.document.text == other.document.text && self.attachments == other.attachments
    }
}

/// Returns the files that `document` names, as written there; empty when the document is unreadable, since parsing
/// will say why.
pub fn attachments(document: &SourceFile) -> Vec<String> {
    gateway::attachments(document)
}
