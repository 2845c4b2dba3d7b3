//! Fuzzing of requests and answers on the socket.

use std::{future::Future, io, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    types::Request,
    wire::{self, Answer, REQUEST_MAX},
};

/// A valid line is equal after a round trip; an invalid one is `InvalidData`, and an incomplete one `UnexpectedEof`.
///
/// # Panics
/// If one of these does not hold.
pub fn socket(bytes: &[u8]) {
    line::<Request>(bytes, true);
    // Fractions in a document may lose their last digit.
    line::<Answer>(bytes, false);
}

fn line<T: Serialize + DeserializeOwned>(bytes: &[u8], exact: bool) {
    const LIMIT: Duration = Duration::from_secs(1);
    let read = |bytes| run(wire::read::<T>(bytes, REQUEST_MAX, LIMIT));
    match read(bytes) {
        Err(error) => {
            let is_invalid = error.kind() == io::ErrorKind::InvalidData;
            assert!(is_invalid || error.kind() == io::ErrorKind::UnexpectedEof, "{error}");
        }
        Ok(message) => {
            let mut written = Vec::new();
            run(wire::write(&mut written, &message, LIMIT)).expect("a message can be written");
            // Other escapes can make it longer.
            if written.len() as u64 <= REQUEST_MAX {
                let again = read(&written).expect("a written message can be read");
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
