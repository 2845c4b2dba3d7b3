//! Any bytes as what a client of the socket says, or as what the daemon answers.

use std::{future::Future, io, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    types::Request,
    wire::{self, Answer, REQUEST_MAX},
};

/// A line that is taken says the same when it is said again; any other is refused with an error that tells a client that
/// is wrong from one that is gone.
///
/// # Panics
/// When that is not so.
pub fn socket(bytes: &[u8]) {
    line::<Request>(bytes, true);
    // A document may have fractions, of which the last digit gets lost.
    line::<Answer>(bytes, false);
}

fn line<T: Serialize + DeserializeOwned>(bytes: &[u8], exact: bool) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let read = |bytes| run(wire::read::<T>(bytes, REQUEST_MAX, PATIENCE));
    match read(bytes) {
        Err(error) => {
            let told = error.kind() == io::ErrorKind::InvalidData;
            assert!(told || error.kind() == io::ErrorKind::UnexpectedEof, "{error}");
        }
        Ok(message) => {
            let mut said = Vec::new();
            run(wire::write(&mut said, &message, PATIENCE)).expect("a message can be written");
            // It may be longer than it was: escaped otherwise.
            if said.len() as u64 <= REQUEST_MAX {
                let again = read(&said).expect("what was written can be read");
                let again = serde_json::to_value(&again).expect("a message is a document");
                let before = serde_json::to_value(&message).expect("a message is a document");
                assert!(!exact || again == before, "{again} is not {before}");
            }
        }
    }
}

fn run<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
