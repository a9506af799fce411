//! The guide, followed word for word by somebody who has the binary and a configuration, and nothing else.

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

#[test]
fn the_guide_does_what_it_says() {
    let begun = Instant::now();
    let folder = tempfile::tempdir().expect("a folder");
    copy(&root().join("docs/guides/examples"), folder.path());
    let tools = tempfile::tempdir().expect("a folder");
    symlink(binary(), tools.path().join("portolan")).expect("a link");
    let text = fs::read_to_string(root().join("docs/guides/simulate-a-partition.md")).expect("the guide");
    let mut followed = 0;
    for block in blocks(&text) {
        for (command, expected) in commands(&block) {
            let said = run(&command, folder.path(), tools.path());
            followed += 1;
            if let Some(first) = expected {
                let shape = shape(first);
                let found = said.lines().any(|line| self::shape(line) == shape);
                assert!(found, "`{command}` does not say `{first}`:\n{said}");
            }
        }
    }
    assert!(followed >= 8, "the guide has {followed} commands");
    assert!(folder.path().join("report.html").exists(), "no report was written");
    assert!(begun.elapsed() < MOST, "following the guide took {} s", begun.elapsed().as_secs());
}

/// A fenced block of commands.
struct Block {
    /// Whether it shows a terminal: commands after `$ `, and what they print.
    transcript: bool,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        match (&inside, line) {
            (None, "```sh" | "```console") => {
                blocks.push(Block { transcript: line == "```console", lines: Vec::new() });
                inside = Some(true);
            }
            (None, fence) if fence.starts_with("```") => inside = Some(false),
            (Some(_), "```") => inside = None,
            (Some(true), line) => blocks.last_mut().expect("inside a block").lines.push(line.to_owned()),
            _ => {}
        }
    }
    blocks
}

/// The commands of a block, each with the first line that it is said to print.
fn commands(block: &Block) -> Vec<(String, Option<&str>)> {
    if !block.transcript {
        return vec![(block.lines.join("\n"), None)];
    }
    let mut commands: Vec<(String, Option<&str>)> = Vec::new();
    for line in &block.lines {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), None)),
            (None, Some((_, expected @ None))) => *expected = Some(line),
            _ => {}
        }
    }
    commands
}

/// A line without its figures, which differ from release to release.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for character in line.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match (character.is_ascii_digit(), shape.ends_with('#')) {
            (true, true) => {}
            (true, false) => shape.push('#'),
            _ => shape.push(character),
        }
    }
    shape
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
