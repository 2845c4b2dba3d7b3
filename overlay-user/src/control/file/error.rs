//! What can be wrong with a configuration file.

use std::fmt;

use overlay_common::VniError;

use crate::model::rule::{Field, Rule};

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
    /// What has the error, for instance `network "blue"`.
    pub object: String,
    /// What is wrong and what mends it.
    pub problem: Problem,
}

/// What is wrong in one place. Prints as `<what is wrong>; <what mends it>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum Problem {
    /// The operating system's error.
    #[error("cannot be read ({0}); create it, or give the path of the configuration")]
    Unreadable(String),
    /// TOML is UTF-8.
    #[error("the text is not UTF-8; save the file as UTF-8")]
    NotUtf8,
    /// Not TOML, or a key or table twice: the parser's message and the line.
    #[error("{message}; correct the line `{text}`")]
    Syntax { message: String, text: String },
    /// Nothing has this key.
    #[error("key {key:?} is unknown; the keys here are {known}")]
    UnknownKey { key: String, known: String },
    /// A key that has no default.
    #[error("{field} is missing; add a line like {field} = {example}")]
    Missing { field: Field, example: &'static str },
    /// A value of another type than the key's.
    #[error("{field} is {found}; write {wanted}")]
    Type { field: Field, found: &'static str, wanted: &'static str },
    /// A text or number that is no such value.
    #[error("{field} {value} is not {what}; write {wanted}")]
    Value { field: Field, value: String, what: &'static str, wanted: &'static str },
    /// Not a VNI.
    #[error(transparent)]
    Vni(VniError),
    /// An empty or cut file must not take the data path down.
    #[error("there are no hosts; add a [[hosts]] table with name and address for each host, or [mirror]")]
    NoHosts,
    /// An endpoint without its network.
    #[error("there is no network {name:?}; add it as [[networks]], or correct the endpoint's network")]
    NoSuchNetwork { name: String },
    /// An endpoint without its host.
    #[error("there is no host with name or address {name:?}; add it as [[hosts]], or correct the endpoint's host")]
    NoSuchHost { name: String },
    /// Two ways to attach one endpoint.
    #[error("netns and port are both given; keep netns to create a veth, or port to use an existing interface")]
    TwoAttachments,
    /// The cluster would break a rule.
    #[error(transparent)]
    Rule(#[from] Rule),
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
        for (index, ConfigError { line, object, problem }) in self.errors.iter().take(PRINTED).enumerate() {
            let line = std::fmt::from_fn(|f| line.map_or(Ok(()), |line| write!(f, ":{line}")));
            write!(f, "{}{file}{line}: {object}: {problem}", if index == 0 { "" } else { "\n" })?;
        }
        match self.errors.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => write!(f, "\n{file}: file: there are {more} more errors; mend these first"),
        }
    }
}

impl std::error::Error for ConfigErrors {}
