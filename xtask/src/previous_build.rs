//! The release build of the previous commit, from which the suite `upgrade` changes to this build.
//!
//! It is compiled from the commit's files in the target directory, and shares the compiled dependencies with this build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::command::{cargo, executables, root, target_directory};

/// The commit before the one that is checked out. CI checks out a merge commit, whose first parent is the target branch.
const PREVIOUS: &str = "HEAD^";

/// Appended to the version, because in one target directory cargo distinguishes the packages of two workspaces only by
/// their versions.
const SUFFIX: &str = "-previous";

/// Builds `overlay`, unless it is built from the same commit already, and returns its path.
///
/// The release build of this workspace must follow, because cargo gives both the same name.
///
/// # Errors
///
/// When this is not a git clone, or the build fails.
pub(crate) fn build() -> Result<PathBuf> {
    let commit = previous_commit()?;
    let target = target_directory()?;
    let directory = target.join("previous-build");
    let (sources, binary, built) = (directory.join("sources"), directory.join("overlay"), directory.join("commit"));
    if binary.is_file() && fs::read_to_string(&built).is_ok_and(|built| built == commit) {
        return Ok(binary);
    }
    fs::create_dir_all(&sources).with_context(|| format!("cannot create {}", sources.display()))?;
    // With an index of its own: the user's is not changed, and files that the commits share are not written again.
    let mut write = git(&["read-tree", "--reset", "-u", &commit]);
    output(write.env("GIT_INDEX_FILE", directory.join("index")).env("GIT_WORK_TREE", &sources))?;
    change_version(&sources).with_context(|| format!("cannot change the version in {}", sources.display()))?;

    let mut build = cargo();
    build.current_dir(&sources).args(["build", "--release", "--locked", "--package", "overlay-user"]);
    build.args(["--bin", "overlay", "--target-dir"]).arg(target);
    let executables = executables(build).with_context(|| format!("cannot build {PREVIOUS}, {commit}"))?;
    let (_, path) = executables.first().context("cargo built no executable")?;
    fs::rename(path, &binary).and_then(|()| fs::write(&built, commit)).context("cannot keep the previous build")?;
    Ok(binary)
}

/// The commit before this one. A clone without it tests the change from this commit's own build, and reports it.
fn previous_commit() -> Result<String> {
    output(&mut git(&["rev-parse", "--verify", "--quiet", PREVIOUS])).or_else(|_| {
        eprintln!("test: this clone does not have {PREVIOUS}: the suite upgrade starts from HEAD instead");
        output(&mut git(&["rev-parse", "--verify", "HEAD"]))
    })
}

fn git(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    // The clone can belong to another user, as in a container.
    git.current_dir(root()).args(["-c", "safe.directory=*"]).args(arguments);
    git
}

/// The output of a command without the last line break.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot start git; install it")?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn change_version(sources: &Path) -> Result<()> {
    let (manifest, lock) = (sources.join("Cargo.toml"), sources.join("Cargo.lock"));
    let text = fs::read_to_string(&manifest)?;
    let (_, rest) = text.split_once("[workspace.package]\nversion = \"").context("Cargo.toml has no version")?;
    let (version, _) = rest.split_once('"').context("Cargo.toml has no version")?;
    // Packages of a registry have their source after the version.
    for (file, after) in [(&manifest, "\nedition"), (&lock, "\ndependencies")] {
        let [old, new] = ["", SUFFIX].map(|suffix| format!("version = \"{version}{suffix}\"{after}"));
        fs::write(file, fs::read_to_string(file)?.replace(&old, &new))?;
    }
    Ok(())
}
