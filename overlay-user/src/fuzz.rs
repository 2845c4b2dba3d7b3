//! Entry points of the fuzzer: one function for each parser of external input.
//!
//! A function panics when the parser panics, or when the result violates a property. `cargo xtask fuzz` searches for such
//! inputs; the tests read the seeds in `tests/fuzz/seeds`. A fixed finding has a test beside the code. Not part of the
//! product: compiled for tests, and with the feature `testing`.

pub use crate::{
    api::fuzz::socket,
    kernel::fuzz::netlink,
    sources::{discover::docker::fuzz::docker, file::fuzz::configuration},
    store::state::fuzz::store,
};

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Passes every seed of a target to its function.
    fn read_seeds(target: &str, read: fn(&[u8])) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target);
        let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("a directory entry").path();
            read(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            count += 1;
        }
        assert!(count > 2, "{}: {count} seeds", directory.display());
    }

    #[test]
    fn configuration_seeds_violate_no_property() {
        read_seeds("configuration", super::configuration);
    }

    #[test]
    fn store_seeds_violate_no_property() {
        read_seeds("store", super::store);
    }

    #[test]
    fn netlink_seeds_violate_no_property() {
        read_seeds("netlink", super::netlink);
    }

    #[test]
    fn docker_seeds_violate_no_property() {
        read_seeds("docker", super::docker);
    }

    #[test]
    fn socket_seeds_violate_no_property() {
        read_seeds("socket", super::socket);
    }
}
