//! The guide, followed word for word by somebody who has the binary and a configuration, and nothing else.
//!
//! What it shows is what the program prints, figures and traces included, up to an ellipsis. To print it anew, run with
//! `PORTOLAN_BLESS=1` and read the difference:
//!
//!     PORTOLAN_BLESS=1 cargo test -p portolan-tests --test e2e guide

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use portolan_tests::{binary, root};

/// What the guide promises.
const MOST: Duration = Duration::from_secs(300);

/// Ends what is shown of an output that goes on.
const ELLIPSIS: &str = "…";

#[test]
fn the_guide_does_what_it_says() {
    let begun = Instant::now();
    let folder = tempfile::tempdir().expect("a folder");
    copy(&root().join("docs/guides/examples"), folder.path());
    let tools = tempfile::tempdir().expect("a folder");
    symlink(binary(), tools.path().join("portolan")).expect("a link");
    let path = root().join("docs/guides/simulate-a-partition.md");
    let text = fs::read_to_string(&path).expect("the guide");
    let mut followed = 0;
    let printed = reprinted(&text, |command| {
        followed += 1;
        run(command, folder.path(), tools.path())
    });
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        fs::write(&path, &printed).expect("the guide is written");
    } else if printed != text {
        let mut lines = text.lines().zip(printed.lines());
        let (shown, said) = lines.find(|(shown, said)| shown != said).unwrap_or(("less", "more"));
        panic!("the guide shows\n{shown}\nwhere the program prints\n{said}\n\nprint it anew with PORTOLAN_BLESS=1");
    }
    assert!(followed >= 8, "the guide has {followed} commands");
    assert!(folder.path().join("report.html").exists(), "no report was written");
    assert!(begun.elapsed() < MOST, "following the guide took {} s", begun.elapsed().as_secs());
}

#[test]
fn what_a_command_prints_takes_the_place_of_what_the_guide_shows() {
    let guide = "text\n```sh\na\nb\n```\n```console\n$ c\nold 1\nold 2\n…\n$ d\n```\n```yaml\n$ e\n```\n";
    let mut ran = Vec::new();
    let printed = reprinted(guide, |command| {
        ran.push(command.to_owned());
        if command == "c" { "new 1\n           goes on\nnew 2\n           and on\nnew 3\n" } else { "" }.to_owned()
    });
    assert_eq!(ran, ["a\nb", "c", "d"]);
    let shown = "$ c\nnew 1\n           goes on\nnew 2\n           and on\n…\n$ d\n";
    assert_eq!(printed, guide.replace("$ c\nold 1\nold 2\n…\n$ d\n", shown));
}

/// The guide with what its commands print in place of what it shows of that. A block of `sh` is one command, whose output is
/// not shown; one of `console` has commands after `$ `, each with what it prints.
fn reprinted(guide: &str, mut run: impl FnMut(&str) -> String) -> String {
    let mut printed = String::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        add_line(&mut printed, line);
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match kind {
            "console" => add_transcript(&mut printed, &block, &mut run),
            _ => {
                if kind == "sh" {
                    run(&block.join("\n"));
                }
                block.into_iter().for_each(|line| add_line(&mut printed, line));
            }
        }
        add_line(&mut printed, "```");
    }
    printed
}

fn add_transcript(printed: &mut String, block: &[&str], run: &mut impl FnMut(&str) -> String) {
    for shown in block.chunk_by(|_, next| !next.starts_with("$ ")) {
        let (first, shown) = shown.split_first().expect("a chunk has a line");
        let command = first.strip_prefix("$ ").unwrap_or_else(|| panic!("`{first}` is printed by no command"));
        let said = run(command);
        add_line(printed, first);
        match shown.split_last() {
            Some((&ELLIPSIS, shown)) => {
                let (heads, mut seen) = (shown.iter().filter(|line| is_head(line)).count(), 0);
                let as_far = |line: &&str| {
                    seen += usize::from(is_head(line));
                    seen <= heads
                };
                said.lines().take_while(as_far).for_each(|line| add_line(printed, line));
                add_line(printed, ELLIPSIS);
            }
            _ => said.lines().for_each(|line| add_line(printed, line)),
        }
    }
}

fn add_line(text: &mut String, line: &str) {
    *text += line;
    text.push('\n');
}

/// Whether a line does not go on with the one before it: as many of these are shown before an ellipsis, however long they
/// are.
fn is_head(line: &str) -> bool {
    !line.starts_with("          ")
}

fn run(command: &str, folder: &Path, tools: &Path) -> String {
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh").args(["-c", command]).current_dir(folder).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("`{command}`: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    // A transcript shows the exit codes that matter; a command that fails unsaid is a fault of the guide.
    assert!(output.status.success(), "`{command}` ends with {}:\n{said}\n{errors}", output.status);
    said
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            fs::create_dir_all(&target).expect("a folder");
            copy(&source, &target);
        } else {
            fs::copy(&source, &target).expect("a copy");
        }
    }
}
