//! Reads what people wrote from disk and hands it to `portolan-config`. Decides which file is of which kind.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use portolan_config::{Bundle, Faults, RegionMap, SourceFile, attachments};

/// Largest file taken; a gateway document that is longer is a mistake.
const MAX_FILE: u64 = 8 << 20;

/// Reads one file, to be named in faults as it was named here.
pub fn source(path: &Path) -> Result<SourceFile> {
    let read = || -> std::io::Result<String> {
        let mut bytes = Vec::new();
        // What is no file says nothing of its length beforehand: a pipe, a device.
        fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(std::io::Error::other(format!("it is longer than {} MiB", MAX_FILE >> 20)));
        }
        text(bytes)
    };
    let text = read().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(SourceFile { path: path.display().to_string(), text })
}

/// Bytes as text; what is none is named by its place.
fn text(bytes: Vec<u8>) -> std::io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        std::io::Error::other(format!("it is not UTF-8 text at line {line}, column {column}; save it as UTF-8"))
    })
}

/// Reads a gateway document and the files it names, which lie beside it.
///
/// A file that cannot be read is left out: parsing then says where the document names it.
pub fn bundle(path: &Path) -> Result<Bundle> {
    let document = source(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut found = BTreeMap::new();
    for name in attachments(&document) {
        if let Ok(file) = source(&folder.join(&name)) {
            found.insert(name, file.text);
        }
    }
    Ok(Bundle { document, attachments: found })
}

/// The YAML files of a folder, by name.
pub fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| {
        format!(
            "cannot read the folder {}: it holds a file for each region, and one with the round trips between them; run \
             this where it is, as in the root of the repository, or name it with --regions",
            folder.display()
        )
    })?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the region files of a folder.
pub fn region_sources(folder: &Path) -> Result<Vec<SourceFile>> {
    yaml_files(folder)?.iter().map(|path| source(path)).collect()
}

/// Reads the regions of a folder; faults are one error that a terminal can show.
pub fn regions(folder: &Path) -> Result<Arc<RegionMap>> {
    RegionMap::parse(&region_sources(folder)?).map(Arc::new).map_err(shown)
}

/// Faults as an error whose text is for a terminal.
pub fn shown(faults: Faults) -> anyhow::Error {
    anyhow::Error::new(Rendered(faults.render()))
}

/// Faults with their places, ready to print.
#[derive(Debug)]
pub struct Rendered(String);

impl std::fmt::Display for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

impl std::error::Error for Rendered {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_named_by_its_place() {
        let error = text(b"a: \xc3\xa4\nb: \xe4".to_vec()).expect_err("latin-1").to_string();
        assert!(error.contains("line 2, column 4"), "{error}");
        assert_eq!(text(b"a".to_vec()).expect("text"), "a");
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let error = source(Path::new("/dev/zero")).expect_err("it has no end");
        assert!(format!("{error:#}").contains("longer than 8 MiB"), "{error:#}");
    }
}
