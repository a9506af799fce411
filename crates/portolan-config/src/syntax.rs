//! Builds the positioned tree from YAML 1.2 events (saphyr-parser). Bounded in bytes, nodes, depth and alias expansion,
//! so that no text can exhaust a node. Refuses what makes a file mean something else than it shows: duplicate keys, tags,
//! merge keys, a second document.

use std::{
    collections::{BTreeMap, btree_map},
    rc::Rc,
};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span as SourceSpan};

use crate::{
    fault::{Report, Span},
    tree::{Entry, Label, Node, Value, shorten},
};

/// Largest text that is read.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Nodes of one document, expanded aliases included.
const MAX_NODES: usize = 100_000;

/// How deep values nest. Documents here need six levels.
const MAX_DEPTH: usize = 24;

/// Reads the report's file; `None` when the tree cannot be built, with the reason in the report.
pub(crate) fn parse(report: &mut Report<'_>) -> Option<Node> {
    let text = without_byte_order_mark(&report.file().text);
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, at most {MAX_BYTES} are read", text.len());
        report.fault(Span::START, message, None);
        return None;
    }
    refuse_unprintable(text, report)?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.handle(event, span, report)?,
            Err(error) => {
                explain(&error, text, report);
                return None;
            }
        }
    }
    if builder.root.is_none() {
        report.fault(Span::START, "the file is empty", "start with `version: 1`".to_owned());
    }
    builder.root
}

/// The text after the mark that some editors put in front of UTF-8. It belongs to no key and has no column.
pub(crate) fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The tree under construction: open collections, innermost last.
#[derive(Default)]
struct Builder {
    open: Vec<Collection>,
    anchors: BTreeMap<usize, Value>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

struct Collection {
    at: Span,
    label: Label,
    anchor: usize,
    content: Content,
}

enum Content {
    Items(Vec<Node>),
    Entries { entries: Vec<Entry>, lines: BTreeMap<Rc<str>, usize>, key: Option<(Rc<str>, Span)> },
}

impl Builder {
    fn handle(&mut self, event: Event<'_>, span: SourceSpan, report: &mut Report<'_>) -> Option<()> {
        let at = place(span);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let remedy = "put each document in a file of its own".to_owned();
                    report.fault(at, "a second document starts here", remedy);
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), at, report);
                let empty = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                let value = if empty { Value::Null } else { Value::Scalar(text.as_ref().into()) };
                return self.value(value, at, anchor, report);
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.is_some(), at, report);
                return self.start(Content::Items(Vec::new()), Span { width: 1, ..at }, anchor, report);
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.is_some(), at, report);
                let content = Content::Entries { entries: Vec::new(), lines: BTreeMap::new(), key: None };
                return self.start(content, Span { width: 1, ..at }, anchor, report);
            }
            Event::SequenceEnd | Event::MappingEnd => return self.end(report),
            Event::Alias(anchor) => return self.alias(anchor, at, report),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Some(())
    }

    fn start(&mut self, content: Content, at: Span, anchor: usize, report: &mut Report<'_>) -> Option<()> {
        if self.awaits_key() {
            report.fault(at, "a key is a single value, not a list or mapping", None);
            return None;
        }
        self.within_depth(1, at, report)?;
        let (label, _) = self.label(at);
        self.open.push(Collection { at, label, anchor, content });
        Some(())
    }

    fn end(&mut self, report: &mut Report<'_>) -> Option<()> {
        let closed = self.open.pop()?;
        let value = match closed.content {
            Content::Items(items) => Value::Sequence(items),
            Content::Entries { entries, .. } => Value::Mapping(entries),
        };
        self.value(value, closed.at, closed.anchor, report)
    }

    fn alias(&mut self, anchor: usize, at: Span, report: &mut Report<'_>) -> Option<()> {
        let Some(value) = self.anchors.get(&anchor).cloned() else {
            report.fault(at, "an alias stands inside the value it names", "write the value out".to_owned());
            return None;
        };
        let (nodes, depth) = value.extent();
        self.within_depth(depth, at, report)?;
        self.nodes += nodes;
        self.value(value, at, 0, report)
    }

    /// Places a finished value as a key, an entry, an item or the document.
    fn value(&mut self, value: Value, at: Span, anchor: usize, report: &mut Report<'_>) -> Option<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} values, expanded aliases counted");
            report.fault(at, message, None);
            return None;
        }
        if anchor != 0 {
            self.nodes += value.extent().0;
            self.anchors.insert(anchor, value.clone());
        }
        if self.awaits_key() {
            return self.key(value, at, report);
        }
        let (label, named_at) = self.label(at);
        let node = Node { at, named_at, label, value };
        match self.open.last_mut().map(|collection| &mut collection.content) {
            None => self.root = Some(node),
            Some(Content::Items(items)) => items.push(node),
            Some(Content::Entries { entries, lines, key }) => {
                let (key, key_at) = key.take().expect("a value in a mapping follows its key");
                match lines.entry(Rc::clone(&key)) {
                    btree_map::Entry::Vacant(vacant) => {
                        vacant.insert(key_at.line);
                        entries.push(Entry { key, key_at, node });
                    }
                    btree_map::Entry::Occupied(first) => {
                        let message = format!("`{}` stands twice; first on line {}", shorten(&key), first.get());
                        report.fault(key_at, message, "keep one of them".to_owned());
                    }
                }
            }
        }
        Some(())
    }

    fn key(&mut self, value: Value, at: Span, report: &mut Report<'_>) -> Option<()> {
        let text: Rc<str> = match value {
            Value::Scalar(text) => text,
            Value::Null => "".into(),
            Value::Sequence(_) | Value::Mapping(_) => {
                report.fault(at, "a key is a single value, not a list or mapping", None);
                return None;
            }
        };
        if &*text == "<<" {
            report.fault(at, "merge keys are not part of YAML 1.2", "write the keys out".to_owned());
        }
        if let Some(Content::Entries { key, .. }) = self.open.last_mut().map(|collection| &mut collection.content) {
            *key = Some((text, at));
        }
        Some(())
    }

    fn awaits_key(&self) -> bool {
        let innermost = self.open.last().map(|collection| &collection.content);
        matches!(innermost, Some(Content::Entries { key: None, .. }))
    }

    /// What the value that starts at `at` is called, and where its name stands.
    fn label(&self, at: Span) -> (Label, Span) {
        let label = match self.open.last() {
            None => Label::Root,
            Some(Collection { content: Content::Entries { key, .. }, .. }) => {
                let (key, key_at) = key.as_ref().expect("a value in a mapping follows its key");
                return (Label::Key(Rc::clone(key)), *key_at);
            }
            Some(Collection { label: Label::Key(key) | Label::Item(key), .. }) => Label::Item(Rc::clone(key)),
            Some(Collection { label: Label::Root, .. }) => Label::Item("the document".into()),
        };
        (label, at)
    }

    fn within_depth(&self, more: usize, at: Span, report: &mut Report<'_>) -> Option<()> {
        if self.open.len() + more <= MAX_DEPTH {
            return Some(());
        }
        report.fault(at, format!("values nest more than {MAX_DEPTH} deep"), None);
        None
    }
}

fn refuse_tag(present: bool, at: Span, report: &mut Report<'_>) {
    if present {
        report.fault(at, "tags such as `!!str` are not taken", "write the value alone".to_owned());
    }
}

fn refuse_unprintable(text: &str, report: &mut Report<'_>) -> Option<()> {
    let (mut line, mut column) = (1, 1);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' => (line, column) = (line + 1, 0),
            '\t' => {}
            // Alone it would break a line for YAML and for hardly any editor.
            '\r' if characters.peek() == Some(&'\n') => {}
            '\u{feff}' | '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {
                let message = format!("the character U+{:04X} is not text", u32::from(character));
                report.fault(Span { line, column, width: 1 }, message, "remove it".to_owned());
                return None;
            }
            _ => {}
        }
        column += 1;
    }
    Some(())
}

fn place(span: SourceSpan) -> Span {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 1 };
    Span { line: start.line(), column: start.col() + 1, width: width.max(1) }
}

/// Puts the parser's words into those of somebody who edits a file.
fn explain(error: &ScanError, text: &str, report: &mut Report<'_>) {
    let marker = error.marker();
    let (mut line, mut column) = (marker.line().max(1), marker.col() + 1);
    // An error at the end of a text is one of the last line that has any.
    while line > 1 && text.lines().nth(line - 1).is_none_or(|text| text.trim().is_empty()) {
        line -= 1;
        column = text.lines().nth(line - 1).map_or(1, |text| text.trim_end().chars().count() + 1);
    }
    let at = Span { line, column, width: 1 };
    let indented_by = |line: usize| {
        let line = text.lines().nth(line.checked_sub(1)?)?;
        let spaces = line.chars().take_while(|c| *c == ' ').count();
        line.chars().nth(spaces).filter(|c| *c == '\t').map(|_| spaces + 1)
    };
    for nearby in [line, line.saturating_sub(1)] {
        if let Some(column) = indented_by(nearby) {
            let at = Span { line: nearby, column, width: 1 };
            report.fault(at, "a tab stands in the indentation", "indent with spaces".to_owned());
            return;
        }
    }
    let info = error.info();
    let known = WORDS.iter().find(|(needle, _, _)| info.contains(needle));
    match known {
        Some((_, message, remedy)) => report.fault(at, *message, (*remedy).to_owned()),
        None => report.fault(at, format!("not YAML: {info}"), None),
    }
}

/// (part of the parser's message, ours, remedy)
const WORDS: [(&str, &str, &str); 15] = [
    ("recursion limit", "values nest too deep", "flatten them"),
    (
        "block scalar, did not find expected comment",
        "text follows a `>` or `|`",
        "put a value that begins with `>` or `|` in quotes",
    ),
    ("tab", "a tab stands where YAML takes spaces only", "write spaces"),
    (
        "mapping values are not allowed",
        "a `:` is not expected here",
        "quote a value that holds `: `, or mend the line above",
    ),
    (
        "did not find expected key",
        "this line does not fit the mapping around it",
        "indent it like its neighbours, and end each key with `:`",
    ),
    ("simple key expect", "a key without `:`", "write `key: value`"),
    (
        "did not find expected '-'",
        "this line does not fit the list around it",
        "begin it with `- `, or indent it like its neighbours",
    ),
    ("expected ',' or '}'", "the `{` before this is not closed", "separate entries by `,` and close with `}`"),
    ("expected ',' or ']'", "the `[` before this is not closed", "separate items by `,` and close with `]`"),
    ("end of stream", "a quote is opened and never closed", "close the quote"),
    ("unknown anchor", "this alias names no anchor above it", "define it with `&name`, or write the value out"),
    (
        "invalid indentation",
        "the indentation does not fit the lines around it",
        "indent by the same number of spaces as the neighbours",
    ),
    (
        "unknown escape character",
        "an unknown escape in double quotes",
        "write `\\\\` for a backslash, or use single quotes",
    ),
    ("unexpected character", "this character may not start a value", "put the value in quotes"),
    ("did not find expected node content", "a value is missing here", "write a value, or remove the `,`"),
];
