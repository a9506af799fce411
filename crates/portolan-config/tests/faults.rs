//! What a person reads who made mistakes: every fault of a file at once, as a terminal shows it.
//!
//! Each `tests/faults/NAME.yaml` is read, and what is wrong with it compared to `NAME.txt`. To accept new wording, run
//! with `PORTOLAN_BLESS=1` and read the difference.

mod common;

use std::{fs, path::Path};

use common::{bundle, file, regions};
use portolan_config::{Faults, NodeFile, RegionMap, Scenario, Snapshot, SourceFile};

/// Reads a file with mistakes by `read` and compares the faults with the snapshot beside it.
fn check(name: &str, read: impl FnOnce(&SourceFile) -> Result<(), Faults>) {
    let source = file(&format!("tests/faults/{name}.yaml"));
    let faults = read(&source).expect_err("the file is full of faults");
    let shown = format!("{}\n", faults.render());
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/faults/{name}.txt"));
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        fs::write(&snapshot, &shown).expect("the snapshot is written");
    }
    let expected = fs::read_to_string(&snapshot).unwrap_or_default();
    assert!(shown == expected, "faults of {name} read differently:\n{shown}");
}

fn gateway(source: &SourceFile) -> Result<(), Faults> {
    let mut bundle = bundle(&source.text);
    bundle.document.path = source.path.clone();
    Snapshot::parse(&bundle, &regions()).map(|_| ())
}

fn region_files(source: &SourceFile) -> Result<(), Faults> {
    let files: Vec<SourceFile> = source.text.split("---\n").map(part).collect();
    RegionMap::parse(&files).map(|_| ())
}

/// One of several files in one: its first line is a comment with its name.
fn part(text: &str) -> SourceFile {
    let name = text.lines().next().unwrap_or_default().trim_start_matches("# ");
    SourceFile { path: name.to_owned(), text: text.to_owned() }
}

fn scenario(source: &SourceFile) -> Result<(), Faults> {
    Scenario::parse(source)?.check(&regions())
}

#[test]
fn all_faults_of_a_gateway_are_told_at_once() {
    check("gateway", gateway);
}

#[test]
fn a_limit_that_cannot_hold_says_why_and_what_to_write() {
    check("limits", gateway);
}

#[test]
fn a_gateway_whose_names_do_not_fit_says_what_would() {
    check("references", gateway);
}

#[test]
fn all_faults_of_region_files_are_told_at_once() {
    check("regions", region_files);
    check("round-trips", region_files);
}

#[test]
fn all_faults_of_a_node_file_are_told_at_once() {
    check("node", |source| NodeFile::parse(source).map(|_| ()));
}

#[test]
fn all_faults_of_a_scenario_are_told_at_once() {
    check("scenario", scenario);
    check("scenario-regions", scenario);
}

#[test]
fn a_text_that_is_not_yaml_says_where_it_breaks() {
    let check = |text: &str, expected: &str| {
        let faults = gateway(&SourceFile { path: "g.yaml".to_owned(), text: text.to_owned() });
        let faults = faults.expect_err("not a document").to_string();
        assert_eq!(faults.lines().next(), Some(expected), "{text:?}");
    };
    check("", "g.yaml:1:1: the file is empty; start with `version: 1`");
    check("# only\n", "g.yaml:1:1: the file is empty; start with `version: 1`");
    check(
        "[1, 2]",
        "g.yaml:1:1: a gateway document must be a mapping, not a list; write a mapping with keys of version, listener, services, auth, lenders, limits, routes, dns",
    );
    check("version: 1\nservices:\n\torders: 1\n", "g.yaml:3:1: a tab stands in the indentation; indent with spaces");
    check(
        "version: 1\n---\nversion: 1\n",
        "g.yaml:2:1: a second document starts here; put each document in a file of its own",
    );
    check("version: 1\nversion: 1\n", "g.yaml:2:1: `version` stands twice; first on line 1; keep one of them");
    check("version: \"1", "g.yaml:1:10: a quote is opened and never closed; close the quote");
    check(
        "version: 1\nroutes: { a: [1, 2\n",
        "g.yaml:2:19: the `[` before this is not closed; separate items by `,` and close with `]`",
    );
    check(
        "version: 1\nroutes: { a: 1\ndns: {}\n",
        "g.yaml:3:4: the `{` before this is not closed; separate entries by `,` and close with `}`",
    );
    check(
        "version: 1\nroutes:\n  a: b: c\n",
        "g.yaml:3:7: a `:` is not expected here; quote a value that holds `: `, or mend the line above",
    );
    check(
        "version: 1\nroutes:\n  a: 1\n b: 1\n",
        "g.yaml:4:2: this line does not fit the mapping around it; indent it like its neighbours, and end each key with `:`",
    );
    check("version: 1\nroutes\n", "g.yaml:2:7: a key without `:`; write `key: value`");
    check(
        "version: 1\nroutes: *nowhere\n",
        "g.yaml:2:9: this alias names no anchor above it; define it with `&name`, or write the value out",
    );
    check(
        "version: 1\nroutes: &a { b: *a }\n",
        "g.yaml:2:17: an alias stands inside the value it names; write the value out",
    );
    check("version: !!int 1\n", "g.yaml:1:16: tags such as `!!str` are not taken; write the value alone");
    check("version: 1\u{0}\n", "g.yaml:1:11: the character U+0000 is not text; remove it");
    check("version:\r 1", "g.yaml:1:9: the character U+000D is not text; remove it");
    check(
        "version: 1\r\nroute: {}\r\n",
        "g.yaml:2:1: `route` is not a key of a gateway document; did you mean `routes`?",
    );
    check("version: 1\n<<: { a: b }\n", "g.yaml:2:1: merge keys are not part of YAML 1.2; write the keys out");
    check(
        "version: >= 3\n",
        "g.yaml:1:10: text follows a `>` or `|`; put a value that begins with `>` or `|` in quotes",
    );
    check("version: @x\n", "g.yaml:1:10: this character may not start a value; put the value in quotes");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let check = |text: &str, expected: &str| {
        let faults = gateway(&SourceFile { path: "g.yaml".to_owned(), text: text.to_owned() });
        assert_eq!(faults.map_err(|faults| faults.render()), Err(expected.to_owned()), "{text:?}");
    };
    check(
        "\u{feff}verson: 1\nversion: 1\n",
        "g.yaml:1:1: `verson` is not a key of a gateway document\n1 | verson: 1\n  | ^^^^^^\n  = did you mean `version`?\n\n1 fault",
    );
    check(
        "version: 1\n\u{feff}routes: {}\n",
        "g.yaml:2:1: the character U+FEFF is not text\n2 | \u{feff}routes: {}\n  | ^\n  = remove it\n\n1 fault",
    );
    let plain = gateway(&SourceFile { path: "g.yaml".to_owned(), text: "\u{feff}version: 1\n".to_owned() });
    assert_eq!(plain, Ok(()));
}

#[test]
fn a_document_that_would_exhaust_a_node_is_refused() {
    let check = |text: &str, expected: &str| {
        let faults = gateway(&SourceFile { path: "g.yaml".to_owned(), text: text.to_owned() });
        let faults = faults.expect_err("too much").to_string();
        assert!(faults.contains(expected), "{faults}");
    };
    let bomb: String = (1..40).map(|i| format!("a{i}: &a{i} [*a{0}]\n", i - 1)).collect();
    check(&format!("a0: &a0 [x, x, x]\n{bomb}"), "values nest more than 24 deep");
    let wide: String = (1..12).map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{}, ", i - 1).repeat(9))).collect();
    check(&format!("a0: &a0 [x, x, x]\n{wide}"), "more than 100000 values");
    check(&"[".repeat(10_000), "values nest too deep");
    check(&"{a: ".repeat(10_000), "values nest too deep");
    check(&"- ".repeat(10_000), "values nest more than 24 deep");
    check(&"x".repeat(1 << 21), "at most 1048576 are read");
    let many: String = (0..300).map(|i| format!("key{i}: 1\n")).collect();
    check(&many, "; 201 more faults are not shown");
}
