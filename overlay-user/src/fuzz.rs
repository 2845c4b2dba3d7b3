//! What the fuzzer calls: everything that is read from outside, each as a function of the bytes that came in.
//!
//! A function panics when what it reads panics, and when what was read breaks a rule that has to hold. `cargo xtask fuzz`
//! looks for such bytes; the tests read the seeds in `tests/fuzz/seeds`, and whatever was found is a test beside the code.
//! No part of the program: compiled for tests, and with the feature `testing`.

pub use crate::{
    api::fuzz::socket,
    kernel::fuzz::netlink,
    sources::{discover::docker::fuzz::docker, file::fuzz::configuration},
    store::state::fuzz::store,
};

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Reads each file that the fuzzer begins with.
    fn read_seeds(target: &str, read: fn(&[u8])) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target);
        let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("it can be listed").path();
            read(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            count += 1;
        }
        assert!(count > 2, "{}: {count} seeds", directory.display());
    }

    #[test]
    fn the_fuzzers_configurations_are_read() {
        read_seeds("configuration", super::configuration);
    }

    #[test]
    fn the_fuzzers_store_values_are_read() {
        read_seeds("store", super::store);
    }

    #[test]
    fn the_fuzzers_netlink_messages_are_read() {
        read_seeds("netlink", super::netlink);
    }

    #[test]
    fn the_fuzzers_answers_of_docker_are_read() {
        read_seeds("docker", super::docker);
    }

    #[test]
    fn the_fuzzers_socket_lines_are_read() {
        read_seeds("socket", super::socket);
    }
}
