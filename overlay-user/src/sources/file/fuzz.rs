//! Any bytes as a configuration file.

use super::parse_bytes;

/// A file is a cluster that keeps every rule and that every host can take its part of, or it has errors that say where
/// and what mends them.
///
/// # Panics
/// When it is neither.
pub fn configuration(bytes: &[u8]) {
    match parse_bytes(bytes, "cluster.toml") {
        Ok(cluster) => {
            cluster.validate().expect("a configuration that was read keeps the rules");
            for host in &cluster.hosts {
                assert!(cluster.view(host.address).is_some(), "host {:?} is not in its cluster", host.name);
            }
        }
        Err(errors) => {
            let lines = bytes.split(|byte| *byte == b'\n').count();
            assert!(!errors.errors().is_empty(), "refused without an error");
            for error in errors.errors() {
                let line = error.line.expect("the error of a text has a line");
                assert!((1..=lines).contains(&line), "line {line} of {lines}: {}", error.finding);
                // A VNI says it in one sentence.
                let message = error.finding.reason();
                assert!(
                    message.contains("; ") || message.contains("so use "),
                    "{message:?} does not say what mends it"
                );
            }
        }
    }
}
