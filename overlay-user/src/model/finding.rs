//! What is wrong, and what mends it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that is not as it should be, or cannot be done. Prints as `<object>: <problem>; <remedy>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Which object, as an operator calls it: `network "blue"`, `VNI 4097`, `endpoint blue/one`.
    pub object: String,
    /// What is wrong with it, without the object and without a full stop.
    pub problem: String,
    /// What mends it; empty where nothing has to be done.
    pub remedy: String,
}

impl Finding {
    /// A finding about an object.
    pub fn new(object: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { object: object.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// `<problem>; <remedy>`, for where the object is named already.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.remedy.is_empty() { self.problem.clone() } else { format!("{}; {}", self.problem, self.remedy) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason())
    }
}
