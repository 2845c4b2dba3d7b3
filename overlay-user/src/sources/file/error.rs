//! What can be wrong with a configuration file.

use std::fmt;

use crate::model::{Finding, rule::Field};

/// Errors that are printed; the rest are counted.
const PRINTED: usize = 50;

/// Why a configuration file is refused: at least one error, in the order of the lines.
///
/// Prints one per line, as `<file>:<line>: <object>: <what is wrong>; <what mends it>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

/// One error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The line of the key, or of the object's header where the key is missing. Counted from 1.
    pub line: Option<usize>,
    /// What is wrong; the object as the file has it, for instance `network "blue"`.
    pub finding: Finding,
}

/// A value of another type than the key's.
pub(super) fn wrong_type(field: Field, found: &str, wanted: &str) -> Finding {
    Finding::unnamed(format!("{field} is {found}"), format!("write {wanted}"))
}

/// A text or number that is no such value.
pub(super) fn wrong_value(field: Field, value: impl fmt::Debug, what: &str, wanted: &str) -> Finding {
    Finding::unnamed(format!("{field} {value:?} is not {what}"), format!("write {wanted}"))
}

impl ConfigErrors {
    pub(super) fn new(file: &str, mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.line);
        Self { file: file.into(), errors }
    }

    /// The file that is refused.
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
            more => write!(f, "\n{file}: file: there are {more} more errors; mend these first"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
