//! What was ordered, and the documents that can be put in force again. Bounded in entries and bytes: the oldest go first,
//! the document in force never.

use std::{collections::VecDeque, sync::Arc};

use portolan_model::{Hash128, HashKey, Revision, WallTime};
use serde::{Deserialize, Serialize};

use crate::Bundle;

/// One line of the cluster's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The revision in force afterwards.
    pub revision: Revision,
    /// Who ordered it.
    pub author: String,
    /// When it was ordered.
    pub at: WallTime,
    /// What was ordered: `apply`, `rollback to 3`, `drain eu-west: upgrade`, `restore eu-west`.
    pub what: String,
    /// Identifies the document in force afterwards.
    pub digest: Hash128,
}

/// Entries and documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    entries: Vec<HistoryEntry>,
    documents: VecDeque<(Revision, Arc<Bundle>)>,
}

impl History {
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The document of a revision, while it is kept.
    pub fn bundle(&self, revision: Revision) -> Option<Arc<Bundle>> {
        self.documents.iter().find(|(kept, _)| *kept == revision).map(|(_, bundle)| Arc::clone(bundle))
    }

    /// Keeps a document, and drops the oldest beyond the bounds.
    pub fn keep(&mut self, revision: Revision, bundle: Arc<Bundle>) {
        self.documents.push_back((revision, bundle));
        let bytes = |documents: &VecDeque<(Revision, Arc<Bundle>)>| -> usize {
            documents.iter().map(|(_, bundle)| bundle.bytes()).sum()
        };
        while self.documents.len() > 1
            && (self.documents.len() > MAX_ENTRIES || bytes(&self.documents) > MAX_DOCUMENT_BYTES)
        {
            self.documents.pop_front();
        }
    }

    pub fn record(&mut self, entry: HistoryEntry) {
        if self.entries.len() == MAX_ENTRIES {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }
}

/// Identifies a document with its files. SipHash under a fixed key: tells versions apart, proves nothing to a stranger.
pub(crate) fn digest(bundle: &Bundle) -> Hash128 {
    let mut parts: Vec<&[u8]> = vec![bundle.document.text.as_bytes()];
    for (name, text) in &bundle.attachments {
        parts.extend([name.as_bytes(), text.as_bytes()]);
    }
    HashKey::new(*b"portolan-history").hash(&parts)
}

/// Orders that are remembered.
const MAX_ENTRIES: usize = 200;

/// Bytes of all documents kept: half of what one message between nodes may hold.
const MAX_DOCUMENT_BYTES: usize = 2 << 20;
