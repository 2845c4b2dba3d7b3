//! Child processes. Their output goes to stderr: a task's stdout belongs to what the task runs last.

use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// The cargo that runs this task.
///
/// It does not see what cargo has said of this package: crates whose build scripts look at that would be compiled again for
/// each task, and again for each command that is given without one.
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

/// Where cargo puts what it builds; the environment and the user's configuration can move it.
///
/// # Errors
///
/// When cargo does not say.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version=1"]));
    let metadata: serde_json::Value = serde_json::from_str(&metadata.context("`cargo metadata` failed")?)?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("`cargo metadata` names no target directory")
}

/// Run to the end, with stdout sent to stderr.
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

/// A command as one would type it, without the variables that it is given.
pub(crate) fn line(command: &Command) -> String {
    let words = iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a command prints, or nothing when it cannot be started or fails: the look of a machine without it.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How binaries are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As the tests are.
    Debug,
    /// As users get them.
    Release,
}

/// Build `binaries` (package, name) and say where cargo put them, in the same order.
///
/// Cargo is asked for the paths, because `CARGO_TARGET_DIR` and the user's configuration move them.
///
/// # Errors
///
/// When the build fails; the compiler's own words are on stderr by then.
pub(crate) fn build<const N: usize>(profile: Profile, binaries: [(&str, &str); N]) -> Result<[PathBuf; N]> {
    let mut build = cargo();
    build.args(["build"]).args((profile == Profile::Release).then_some("--release"));
    for (package, name) in binaries {
        build.args(["--package", package, "--bin", name]);
    }
    let built = executables(build)?;

    let mut paths = binaries.map(|_| PathBuf::new());
    for (path, (package, name)) in paths.iter_mut().zip(binaries) {
        match built.iter().find(|(built_name, _)| built_name == name) {
            Some((_, executable)) => path.clone_from(executable),
            None => bail!("cargo built {package} but named no executable {name}"),
        }
    }
    Ok(paths)
}

/// Build the test binary `name` of `package` as the tests are, and say where cargo put it.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn build_test(package: &str, name: &str) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", package, "--test", name]);
    let built = executables(build)?;
    let found = built.into_iter().find(|(built_name, _)| built_name == name);
    found.map(|(_, path)| path).with_context(|| format!("cargo built {package} but named no test {name}"))
}

/// Run a build and list the executables that it made: target name and path.
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

/// The target name and executable of a `compiler-artifact` message, if it is one with an executable.
fn executable(message: &serde_json::Value) -> Option<(String, PathBuf)> {
    let name = message.get("target")?.get("name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_with_an_executable_is_recognised() {
        let message = serde_json::json!({"reason": "compiler-artifact", "target": {"name": "overlay"}, "executable": "/t/overlay"});
        assert_eq!(executable(&message), Some(("overlay".to_owned(), PathBuf::from("/t/overlay"))));
    }

    #[test]
    fn a_library_artifact_has_no_executable() {
        let message =
            serde_json::json!({"reason": "compiler-artifact", "target": {"name": "overlay_user"}, "executable": null});
        assert_eq!(executable(&message), None);
    }
}
