//! Arbitrary bytes as a configuration file.

use super::parse_bytes;

/// A file is a valid cluster with a view for every host, or has errors that each name the line and the remedy.
///
/// # Panics
/// When the file is neither.
pub fn configuration(bytes: &[u8]) {
    match parse_bytes(bytes, "cluster.toml") {
        Ok(cluster) => {
            cluster.validate().expect("a parsed configuration is valid");
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
                // The remedy of a VNI error follows "so".
                let message = error.finding.reason();
                assert!(message.contains("; ") || message.contains("so use "), "{message:?} has no remedy");
            }
        }
    }
}
