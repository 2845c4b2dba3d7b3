//! A copy of the sources with edits, in the target directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::command::root;

/// File, text that occurs in it once, and its replacement in the copy.
pub(crate) type Edit = (&'static str, &'static str, &'static str);

/// Copied files and directories.
const SOURCES: [&str; 7] =
    ["Cargo.lock", "Cargo.toml", "overlay-common", "overlay-ebpf", "overlay-user", "tests", "xtask"];

/// The packages of the workspace.
const PACKAGES: [&str; 6] =
    ["overlay-common", "overlay-ebpf", "overlay-tests", "overlay-tests-ebpf", "overlay-user", "xtask"];

/// The texts of files that differ from the original.
pub(crate) type Edited = BTreeMap<PathBuf, String>;

/// Applies `edits` to the original.
///
/// # Errors
///
/// When the text of an edit does not occur once in its file.
pub(crate) fn edited(edits: &[Edit]) -> Result<Edited> {
    let mut edited = Edited::new();
    edits.iter().try_for_each(|(file, old, new)| replace(&mut edited, file, old, new))?;
    Ok(edited)
}

/// Writes the sources to `copy`, with the `edited` files and as version `major` of all packages: in one target directory,
/// cargo distinguishes the packages of two workspaces only by their versions.
///
/// # Errors
///
/// When a file cannot be written, or the manifests have other packages.
pub(crate) fn write(copy: &Path, mut edited: Edited, major: u8) -> Result<()> {
    let version = |before: &str, major: u8| format!("{before}\nversion = \"{major}.");
    let packages = PACKAGES.map(|package| ("Cargo.lock", format!("name = \"{package}\"")));
    for (file, before) in packages.into_iter().chain([("Cargo.toml", "[workspace.package]".to_owned())]) {
        replace(&mut edited, file, &version(&before, 0), &version(&before, major))
            .context("adapt xtask/src/edited_copy.rs")?;
    }
    fs::create_dir_all(copy).with_context(|| format!("cannot create {}", copy.display()))?;
    SOURCES.iter().try_for_each(|source| {
        update(copy, Path::new(source), &edited).with_context(|| format!("cannot copy {source} to {}", copy.display()))
    })
}

fn replace(edited: &mut Edited, file: &str, old: &str, new: &str) -> Result<()> {
    let read = || fs::read_to_string(root().join(file)).with_context(|| format!("cannot read {file}"));
    let text = edited.remove(Path::new(file)).map_or_else(read, Ok)?;
    let count = text.matches(old).count();
    ensure!(count == 1, "{file}: {old:?} occurs {count} times, not once");
    edited.insert(file.into(), text.replace(old, new));
    Ok(())
}

/// Updates the copy of `path`, with the edits. Unchanged files keep their time, so that cargo does not compile them
/// again.
fn update(copy: &Path, path: &Path, edited: &Edited) -> io::Result<()> {
    let (from, to) = (root().join(path), copy.join(path));
    if from.is_dir() {
        fs::create_dir_all(&to)?;
        let names = list(&from)?;
        for stale in list(&to)?.difference(&names) {
            let stale = to.join(stale);
            if stale.is_dir() { fs::remove_dir_all(stale)? } else { fs::remove_file(stale)? }
        }
        return names.iter().try_for_each(|name| update(copy, &path.join(name), edited));
    }
    let content = edited.get(path).map_or_else(|| fs::read(&from), |text| Ok(text.clone().into_bytes()))?;
    if fs::read(&to).is_ok_and(|old| old == content) { Ok(()) } else { fs::write(&to, content) }
}

fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    let names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    // A build in tests/fuzz creates a directory `target` there.
    names.filter(|name| !name.as_ref().is_ok_and(|name| name == "target")).collect()
}
