//! Keys that requests were counted under lately, with their names: counters know only hashes, operators want to read who
//! it is. Keeps a bounded number and forgets all at the bound; decides nothing.

use std::collections::BTreeMap;

use portolan_limits::Key;

/// Names that are kept.
const MAX_NAMES: usize = 1024;

/// Some keys with their names.
#[derive(Debug, Default)]
pub struct KeyNames(BTreeMap<Key, Box<str>>);

impl KeyNames {
    /// Remembers a key; `name` is made only for one that is not remembered.
    pub fn note(&mut self, key: Key, name: impl FnOnce() -> String) {
        if self.0.contains_key(&key) {
            return;
        }
        if self.0.len() >= MAX_NAMES {
            self.0.clear();
        }
        self.0.insert(key, name().into());
    }

    /// Every key with its name.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &str)> {
        self.0.iter().map(|(key, name)| (*key, &**name))
    }
}
