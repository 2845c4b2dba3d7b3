//! Findings: a problem of an object, and its remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A problem and its remedy. Prints as `<object>: <problem>; <remedy>`, or `<problem>; <remedy>` without an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// The object: `network "blue"`, `VNI 4097`, `endpoint blue/one`.
    pub object: String,
    /// The problem, without the object and without a full stop.
    pub problem: String,
    /// The remedy; empty if no action is needed.
    pub remedy: String,
}

impl Finding {
    /// A finding about an object.
    pub fn new(object: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// A finding without an object, which the caller [sets](Self::about).
    pub fn unnamed(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new("", problem, remedy)
    }

    /// The finding with this [reason](Self::reason).
    pub fn from_reason(object: impl Into<String>, reason: &str) -> Self {
        let (problem, remedy) = reason.split_once("; ").unwrap_or((reason, ""));
        Self::new(object, problem, remedy)
    }

    /// The same finding with another object.
    #[must_use]
    pub fn about(self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self }
    }

    /// `<problem>; <remedy>`, without the object.
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

/// The findings of a refusal or failure: at least one. Prints one per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
#[serde(transparent)]
pub struct Findings<T: fmt::Display = Finding>(Vec<T>);

impl Findings {
    /// The findings of an error, whose message has lines of the form `<object>: <problem>; <remedy>`.
    #[must_use]
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let finding = |line: &str| {
            let (object, reason) = line.split_once(": ").unwrap_or(("", line));
            Finding::from_reason(object, reason)
        };
        error.to_string().lines().map(finding).collect()
    }
}

impl<T: fmt::Display> Findings<T> {
    /// # Errors
    /// If there is any finding.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_error_are_its_findings() {
        let findings: Findings = [
            Finding::new("network \"blue\"", "mtu 1 is out of range", "use 576 to 65485 bytes"),
            Finding::new("VNI 7", "it is encrypted", ""),
            Finding::unnamed("the store is gone", "start it; then wait"),
        ]
        .into_iter()
        .collect();
        let lines = "network \"blue\": mtu 1 is out of range; use 576 to 65485 bytes\n\
            VNI 7: it is encrypted\n\
            the store is gone; start it; then wait";
        assert_eq!(findings.to_string(), lines);
        assert_eq!(Findings::from_error(&findings), findings);
    }

    #[test]
    fn findings_are_an_error_if_there_are_any() {
        let one = Findings::from(Finding::unnamed("the store is gone", "start it"));
        assert_eq!(one.clone().none(), Err(one));
        assert_eq!(Findings::<Finding>::from_iter([]).none(), Ok(()));
    }
}
