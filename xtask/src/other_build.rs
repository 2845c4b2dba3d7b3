//! `overlay-other-build`: another version of the daemon for the suite `upgrade`. Its maps and programs have another
//! layout.
//!
//! It is compiled from a copy of the sources in the target directory, with the edits below.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::command::{cargo, executables, root, target_directory};

/// Copied files and directories.
const SOURCES: [&str; 7] =
    ["Cargo.lock", "Cargo.toml", "overlay-common", "overlay-ebpf", "overlay-user", "tests", "xtask"];

const MAPS: &str = "overlay-common/src/maps.rs";

/// File, text that occurs in it once, and its replacement in the copy.
const EDITS: [(&str, &str, &str); 11] = [
    (MAPS, "LAYOUT: u32 = ", "LAYOUT: u32 = 1 + "),
    (MAPS, r#""OVL_PORTS", Class::Planned, 8_192"#, r#""OVL_PORTS", Class::Planned, 4_096"#),
    (MAPS, r#""OVL_NETWORKS", Class::Planned, 4_096"#, r#""OVL_NETWORKS", Class::Planned, 2_048"#),
    (MAPS, "    pub ip: [u8; 4],\n", ""),
    (MAPS, "pub struct Port {", "pub struct Port {\n    /// Moved.\n    pub ip: [u8; 4],"),
    (MAPS, "    pub target: u32,\n", ""),
    (MAPS, "pub struct FdbEntry {", "pub struct FdbEntry {\n    /// Moved.\n    pub target: u32,"),
    (MAPS, "pub struct Underlay {", "pub struct Underlay {\n    /// Added.\n    pub later: u32,"),
    (MAPS, "Some(Self { addr,", "Some(Self { later: 0, addr,"),
    (MAPS, "pub rx: Count,", "pub rx: Count,\n    /// Added.\n    pub later: u64,"),
    (MAPS, "Self { tx, rx }", "Self { tx, rx, later: 0 }"),
];

/// The packages of the workspace.
const PACKAGES: [&str; 6] =
    ["overlay-common", "overlay-ebpf", "overlay-tests", "overlay-tests-ebpf", "overlay-user", "xtask"];

/// Builds `overlay-other-build` in the directory of `overlay`, with the packages of `selected`. `overlay` must be built
/// afterwards, because cargo gives both the same name.
pub(crate) fn build(selected: &[&str]) -> Result<()> {
    let target = target_directory()?;
    let copy = target.join("other-build");
    let edited = edited().context("cannot edit the sources of the other build")?;
    fs::create_dir_all(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
    for source in SOURCES {
        update(&copy, Path::new(source), &edited)
            .with_context(|| format!("cannot copy {source} to {}", copy.display()))?;
    }

    let mut build = cargo();
    build
        .current_dir(&copy)
        .arg("build")
        .args(selected)
        .args(["--bin", "overlay", "--locked", "--target-dir"])
        .arg(target);
    let built = executables(build)?;
    let (_, path) = built.iter().find(|(name, _)| name == "overlay").context("cargo built no executable overlay")?;
    let other = path.with_file_name("overlay-other-build");
    // A renamed copy: cargo replaces the file that it built, and a running executable cannot be written.
    let new = path.with_file_name("overlay-other-build.new");
    fs::copy(path, &new)
        .and_then(|_| fs::rename(&new, &other))
        .with_context(|| format!("cannot write {}", other.display()))
}

/// The files that differ from the original.
fn edited() -> Result<BTreeMap<PathBuf, String>> {
    let mut edits: Vec<_> = EDITS.map(|(file, old, new)| (file, old.to_owned(), new.to_owned())).into();
    // In one target directory, cargo distinguishes the packages of two workspaces only by their versions.
    let version = |before: &str, major: u8| format!("{before}\nversion = \"{major}.");
    edits.push(("Cargo.toml", version("[workspace.package]", 0), version("[workspace.package]", 1)));
    for package in PACKAGES {
        let name = format!("name = \"{package}\"");
        edits.push(("Cargo.lock", version(&name, 0), version(&name, 1)));
    }

    let mut files = BTreeMap::new();
    for (file, old, new) in edits {
        if !files.contains_key(Path::new(file)) {
            let text = fs::read_to_string(root().join(file)).with_context(|| format!("cannot read {file}"))?;
            files.insert(PathBuf::from(file), text);
        }
        if let Some(text) = files.get_mut(Path::new(file)) {
            let count = text.matches(&old).count();
            ensure!(count == 1, "{file}: {old:?} occurs {count} times, not once; adapt xtask/src/other_build.rs");
            *text = text.replace(&old, &new);
        }
    }
    Ok(files)
}

/// Updates the copy of `path`, with the edits. Unchanged files keep their time, so that cargo does not compile them
/// again.
fn update(copy: &Path, path: &Path, edited: &BTreeMap<PathBuf, String>) -> io::Result<()> {
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
