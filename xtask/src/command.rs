//! Child processes. Their output goes to stderr: stdout is for the program that a task runs last.

use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// The cargo that runs this task.
///
/// Cargo's variables about this package are removed from its environment: crates whose build scripts read them would be
/// compiled again for each task.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The directory of the workspace.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Cargo's target directory, which depends on the environment and the user's configuration.
///
/// # Errors
///
/// When `cargo metadata` fails.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version=1"]));
    let metadata: serde_json::Value = serde_json::from_str(&metadata.context("`cargo metadata` failed")?)?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("`cargo metadata` has no target directory")
}

/// Runs a command and waits for it, with its stdout sent to stderr.
///
/// # Errors
///
/// When the program cannot be started or does not exit with 0; the error names the command line.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    ensure!(status.success(), "{}: {status}", line(command));
    Ok(())
}

/// The command line, without environment variables.
pub(crate) fn line(command: &Command) -> String {
    let words = iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The output of a command, or `None` when it cannot be started or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Build profile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As for tests.
    Debug,
    /// As for users: stripped.
    Release,
    /// The release build with its debug symbols.
    ReleaseWithSymbols,
}

/// Packages and a test whose features and dependencies are those of all tests: cargo resolves the features of a build from
/// its selection, and compiles a crate again for other features.
const SHARED: [&str; 6] = ["--package", "overlay-user", "--package", "overlay-tests", "--test", "imports"];

/// Builds `binaries` (package, name) and returns their paths in the same order.
///
/// The paths are read from cargo's messages, because `CARGO_TARGET_DIR` and the user's configuration change them.
///
/// # Errors
///
/// When the build fails; the compiler's messages are on stderr.
pub(crate) fn build<const N: usize>(profile: Profile, binaries: [(&str, &str); N]) -> Result<[PathBuf; N]> {
    let mut build = cargo();
    build.args(["build"]);
    match profile {
        Profile::Debug => build.args(SHARED),
        Profile::Release => build.arg("--release"),
        Profile::ReleaseWithSymbols => {
            build.args(["--release", "--config", "profile.release.package.overlay-user.strip=\"none\""])
        }
    };
    for (package, name) in binaries {
        build.args(["--package", package, "--bin", name]);
    }
    let built = executables(build)?;

    let mut paths = binaries.map(|_| PathBuf::new());
    for (path, (package, name)) in paths.iter_mut().zip(binaries) {
        match built.iter().find(|(built_name, _)| built_name == name) {
            Some((_, executable)) => path.clone_from(executable),
            None => bail!("cargo built {package}, but reported no executable {name}"),
        }
    }
    Ok(paths)
}

/// Builds test binaries of overlay-tests in the debug profile, and returns nextest's list of them.
///
/// # Errors
///
/// When the build fails; the compiler's messages are on stderr.
pub(crate) fn test_binaries(names: &[&str]) -> Result<Vec<u8>> {
    let mut list = cargo();
    list.args(["nextest", "list"]).args(SHARED).args(names.iter().flat_map(|name| ["--test", name]));
    list.args(["--list-type=binaries-only", "--message-format=json"]);
    let output = list.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start {}", line(&list)))?;
    ensure!(output.status.success(), "{}: {}", line(&list), output.status);
    Ok(output.stdout)
}

/// Runs a build and returns the executables that it built: target name and path.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn executables(mut build: Command) -> Result<Vec<(String, PathBuf)>> {
    build.arg("--message-format=json-render-diagnostics");
    let mut child = build
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", line(&build)))?;

    let mut built = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read cargo's messages")?;
            built.extend(serde_json::from_str(&line).ok().as_ref().and_then(executable));
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "{}: {status}", line(&build));
    Ok(built)
}

/// The target name and executable of a `compiler-artifact` message with an executable.
fn executable(message: &serde_json::Value) -> Option<(String, PathBuf)> {
    let name = message.get("target")?.get("name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifact_with_executable_is_recognised() {
        let message = serde_json::json!({"reason": "compiler-artifact", "target": {"name": "overlay"}, "executable": "/t/overlay"});
        assert_eq!(executable(&message), Some(("overlay".to_owned(), PathBuf::from("/t/overlay"))));
    }

    #[test]
    fn library_artifact_has_no_executable() {
        let message =
            serde_json::json!({"reason": "compiler-artifact", "target": {"name": "overlay_user"}, "executable": null});
        assert_eq!(executable(&message), None);
    }
}
