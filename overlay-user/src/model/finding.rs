//! A problem of an object, and its remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that is not as it should be, or cannot be done. Prints as `<object>: <problem>; <remedy>`, without an object as
/// `<problem>; <remedy>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Which object, as an operator calls it: `network "blue"`, `VNI 4097`, `endpoint blue/one`.
    pub object: String,
    /// What is wrong with it, without the object and without a full stop.
    pub problem: String,
    /// How to fix it; empty where nothing has to be done.
    pub remedy: String,
}

impl Finding {
    /// A finding about an object.
    pub fn new(object: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// A finding whose object is [named](Self::about) by the caller.
    pub fn unnamed(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new("", problem, remedy)
    }

    /// The finding whose [reason](Self::reason) this is.
    pub fn of_reason(object: impl Into<String>, reason: &str) -> Self {
        let (problem, remedy) = reason.split_once("; ").unwrap_or((reason, ""));
        Self::new(object, problem, remedy)
    }

    /// The same about this object.
    #[must_use]
    pub fn about(self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self }
    }

    /// `<problem>; <remedy>`, for where the object is named already.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.remedy.is_empty() { self.problem.clone() } else { format!("{}; {}", self.problem, self.remedy) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason();
        if self.object.is_empty() { f.write_str(&reason) } else { write!(f, "{}: {reason}", self.object) }
    }
}

/// Why something is refused or has failed: at least one finding. Prints one per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
#[serde(transparent)]
pub struct Findings<T: fmt::Display = Finding>(Vec<T>);

impl Findings {
    /// What an error says: each line of its message is `<object>: <problem>; <remedy>`.
    #[must_use]
    pub fn of_error(error: &dyn std::error::Error) -> Self {
        let finding = |line: &str| {
            let (object, reason) = line.split_once(": ").unwrap_or(("", line));
            Finding::of_reason(object, reason)
        };
        error.to_string().lines().map(finding).collect()
    }
}

impl<T: fmt::Display> Findings<T> {
    /// # Errors
    /// When there is any.
    pub(crate) fn none(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        Self(vec![finding])
    }
}

impl<T: fmt::Display> FromIterator<T> for Findings<T> {
    fn from_iter<I: IntoIterator<Item = T>>(findings: I) -> Self {
        Self(findings.into_iter().collect())
    }
}

impl<T: fmt::Display> IntoIterator for Findings<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
