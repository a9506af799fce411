//! What an operator hands over: one document and the files it names. Never opens any of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Faults,
    fault::{Report, Span},
    gateway,
};

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

impl SourceFile {
    /// Takes the bytes of a file, or says where they stop being UTF-8.
    pub fn from_bytes(path: &str, bytes: Vec<u8>) -> Result<Self, Faults> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(error) => {
                let (valid, byte) =
                    (error.utf8_error().valid_up_to(), error.as_bytes()[error.utf8_error().valid_up_to()]);
                let good = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
                let (line, column) =
                    (good.matches('\n').count() + 1, good.chars().rev().take_while(|c| *c != '\n').count() + 1);
                let file = Self { path: path.to_owned(), text: good };
                let mut report = Report::new(&file);
                let message = format!("the byte 0x{byte:02X} is not UTF-8");
                report.fault(Span { line, column, width: 1 }, message, "save the file as UTF-8".to_owned());
                Err(report.take())
            }
        }
    }
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

/// Returns the regions that `document` names; what is unreadable in it is left out, since parsing will say why.
pub fn region_names(document: &SourceFile) -> BTreeSet<String> {
    gateway::region_names(document)
}
