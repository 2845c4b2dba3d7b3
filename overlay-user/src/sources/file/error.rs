//! Errors in a configuration file.

use std::fmt;

use crate::model::{Finding, counted, rule::Field};

/// Number of errors printed; the rest is counted.
const PRINTED: usize = 50;

/// The errors of a configuration file, at least one, in the order of the lines.
///
/// Displays one per line, as `<file>:<line>: <object>: <problem>; <remedy>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

/// One error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The line of the key, or of the object's header if the key is missing. Counted from 1.
    pub line: Option<usize>,
    /// The finding; its object is named as in the file, for example `network "blue"`.
    pub finding: Finding,
}

/// A value of the wrong type.
pub(super) fn wrong_type(field: Field, found: &str, wanted: &str) -> Finding {
    Finding::unnamed(format!("{field} is {found}"), format!("write {wanted}"))
}

/// A string or number that is not a valid value.
pub(super) fn wrong_value(field: Field, value: impl fmt::Debug, what: &str, wanted: &str) -> Finding {
    Finding::unnamed(format!("{field} {value:?} is not {what}"), format!("write {wanted}"))
}

impl ConfigErrors {
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.line);
        Self { file: file.into(), errors }
    }

    /// The file name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The errors, at least one.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        for (index, ConfigError { line, finding }) in self.errors.iter().take(PRINTED).enumerate() {
            let line = std::fmt::from_fn(|f| line.map_or(Ok(()), |line| write!(f, ":{line}")));
            write!(f, "{}{file}{line}: {finding}", if index == 0 { "" } else { "\n" })?;
        }
        match self.errors.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => write!(f, "\n{file}: file: {}; fix these first", counted(more, "more error")),
        }
    }
}

impl std::error::Error for ConfigErrors {}
