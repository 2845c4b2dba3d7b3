//! `overlay-other-build`: another version of the daemon for the suite `upgrade`. Its maps and programs have another
//! layout.
//!
//! It is compiled from a copy of the sources in the target directory, with the edits below.

use std::fs;

use anyhow::{Context as _, Result};

use crate::command::{cargo, executables, target_directory};
use crate::edited_copy::{self, Edit};

const MAPS: &str = "overlay-common/src/maps.rs";

const EDITS: [Edit; 11] = [
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

/// Builds `overlay-other-build` in the directory of `overlay`, with the packages of `selected`. `overlay` must be built
/// afterwards, because cargo gives both the same name.
pub(crate) fn build(selected: &[&str]) -> Result<()> {
    let target = target_directory()?;
    let copy = target.join("other-build");
    let edited = edited_copy::edited(&EDITS).context("adapt xtask/src/other_build.rs")?;
    edited_copy::write(&copy, edited, 1)?;

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
