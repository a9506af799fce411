//! A text as a tree in which every node knows its place. Knows nothing of what the keys mean.

use std::rc::Rc;

use crate::fault::Span;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where the value stands.
    pub at: Span,
    /// Where its key stands; for an item or the document, the value itself.
    pub named_at: Span,
    pub label: Label,
    pub value: Value,
}

/// What a node is called in a fault.
#[derive(Clone, Debug)]
pub(crate) enum Label {
    /// The whole document.
    Root,
    /// The value of this key.
    Key(Rc<str>),
    /// An item of the list under this key.
    Item(Rc<str>),
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    /// Text; numbers and booleans are read by whoever expects one.
    Scalar(Rc<str>),
    Sequence(Vec<Node>),
    /// Keys are distinct; in the order written.
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Rc<str>,
    pub key_at: Span,
    pub node: Node,
}

impl Node {
    /// The node with its key, as it could stand in the file, for a message: `` `rate: 12k` ``.
    pub fn quoted(&self) -> String {
        match (&self.label, &self.value) {
            (Label::Root, _) => "the document".to_owned(),
            (Label::Key(key), Value::Scalar(text)) => format!("`{key}: {}`", shorten(text)),
            (Label::Item(key), Value::Scalar(text)) => format!("`{}` in `{key}`", shorten(text)),
            (Label::Key(key), _) => format!("`{key}`"),
            (Label::Item(key), _) => format!("an item of `{key}`"),
        }
    }

    /// What kind of value it is, for a message.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "empty",
            Value::Scalar(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

impl Value {
    /// Nodes in it, itself included, and how deep they nest.
    pub fn extent(&self) -> (usize, usize) {
        let children: &mut dyn Iterator<Item = &Node> = match self {
            Self::Null | Self::Scalar(_) => return (1, 1),
            Self::Sequence(items) => &mut items.iter(),
            Self::Mapping(entries) => &mut entries.iter().map(|entry| &entry.node),
        };
        let (nodes, depth) = children.fold((0, 0), |(nodes, depth), child| {
            let (more, deep) = child.value.extent();
            (nodes + more, depth.max(deep))
        });
        (nodes + 1, depth + 1)
    }
}

/// A value short enough for a message, on one line.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > MAX_SHOWN {
        short.push('…');
    }
    short
}

/// Characters of a value that a message repeats.
const MAX_SHOWN: usize = 60;
