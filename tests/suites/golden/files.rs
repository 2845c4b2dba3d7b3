//! The golden files of one test: compared, or rewritten.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Environment variable that makes the test rewrite the files.
const BLESS: &str = "OVERLAY_BLESS";

/// The directory of all golden files.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Whether the files are rewritten instead of compared.
pub(crate) fn is_blessing() -> bool {
    env::var_os(BLESS).is_some_and(|value| !value.is_empty() && value != "0")
}

/// A directory of golden files that belongs to one test.
pub(crate) struct Golden {
    directory: PathBuf,
    /// Paths below `directory` that were compared.
    seen: BTreeSet<PathBuf>,
    differences: Vec<String>,
}

impl Golden {
    pub(crate) fn new(directory: &str) -> Self {
        Self { directory: root().join(directory), seen: BTreeSet::new(), differences: Vec::new() }
    }

    /// Compares `text` with the file `name`, or writes it. Differences are reported by [`Self::finish`].
    pub(crate) fn file(&mut self, name: &str, text: &str) {
        assert!(self.seen.insert(name.into()), "{name} is recorded twice");
        let path = self.directory.join(name);
        if is_blessing() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        } else {
            self.compare(&path, text);
        }
    }

    /// Compares `text` with a file that this run has already recorded.
    pub(crate) fn same_file(&mut self, name: &str, text: &str) {
        assert!(self.seen.contains(Path::new(name)), "{name} is not recorded yet");
        let path = self.directory.join(name);
        self.compare(&path, text);
    }

    fn compare(&mut self, path: &Path, text: &str) {
        let recorded = fs::read_to_string(path).ok();
        if recorded.as_deref() != Some(text) {
            self.differences.push(difference(path, recorded.is_some(), text));
        }
    }

    /// Reports every difference, and every file that no test writes.
    ///
    /// # Panics
    /// When there is one.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        for path in files_below(&self.directory) {
            if self.seen.contains(path.strip_prefix(&self.directory).unwrap()) {
                continue;
            }
            if is_blessing() {
                fs::remove_file(&path).unwrap();
            } else {
                self.differences.push(format!("{}: no test writes this file\n", shown(&path)));
            }
        }
        assert!(
            self.differences.is_empty(),
            "{} golden files differ:\n\n{}\nIf the change is wanted, rewrite the files and commit them with the reason:\n\
             {BLESS}=1 cargo xtask test -E 'binary(golden)'\n",
            self.differences.len(),
            self.differences.join("\n")
        );
    }
}

/// All files below a directory, in order.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Path relative to the repository.
fn shown(path: &Path) -> String {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    path.strip_prefix(repository).unwrap_or(path).display().to_string()
}

/// Output of `diff -u` for a golden file and a text.
fn difference(path: &Path, exists: bool, text: &str) -> String {
    let recorded = if exists { path } else { Path::new("/dev/null") };
    let mut diff = Command::new("diff")
        .args(["-u", "--label", &shown(path), "--label", "this build"])
        .args([recorded, Path::new("-")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    diff.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(diff.wait_with_output().unwrap().stdout).unwrap()
}
