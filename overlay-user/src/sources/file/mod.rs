//! The static control plane: one TOML file, identical on all hosts, that describes the cluster.
//!
//! [`parse`] and [`load`] return a [`Cluster`] or all errors with their lines; [`FileSource`] follows the file.

use std::path::Path;

use crate::model::{Cluster, Finding};

mod convert;
mod discover;
mod error;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod table;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use error::{ConfigError, ConfigErrors};
pub use watch::FileSource;

/// Parses a configuration. `file` is the file name in error messages.
///
/// # Errors
/// All errors, in the order of the lines; only the first syntax error.
pub fn parse(text: &str, file: &str) -> Result<Cluster, ConfigErrors> {
    convert::cluster(text).map_err(|errors| ConfigErrors::new(file, errors))
}

/// Reads the configuration file at `path`.
///
/// # Errors
/// As [`parse`], and when the file cannot be read or is not UTF-8.
pub(crate) fn load(path: impl AsRef<Path>) -> Result<Cluster, ConfigErrors> {
    let path = path.as_ref();
    let file = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => parse_bytes(&bytes, &file),
        Err(error) => Err(unreadable(&file, &error)),
    }
}

fn parse_bytes(bytes: &[u8], file: &str) -> Result<Cluster, ConfigErrors> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            let finding = Finding::new("file", "the text is not UTF-8", "save the file as UTF-8");
            Err(ConfigErrors::new(file, vec![ConfigError { line: Some(line), finding }]))
        }
    }
}

fn unreadable(file: &str, error: &std::io::Error) -> ConfigErrors {
    let remedy = "create it, or give the path of the configuration";
    let finding = Finding::new("file", format!("cannot be read ({error})"), remedy);
    ConfigErrors::new(file, vec![ConfigError { line: None, finding }])
}
