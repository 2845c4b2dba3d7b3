//! Where a daemon's socket is.

use std::path::{Path, PathBuf};

/// The directory of all daemons' sockets on a machine, mode 0750.
pub const DIRECTORY: &str = "/run/overlay";

/// The pin root whose daemon has the plain name.
const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/overlay";

/// The socket of the daemon with this pin root: `/run/overlay/overlay.sock` for the default one. Of any other the last
/// component of its path and 32 bits of FNV-1a of all of it, as `/run/overlay/node01-1b2c3d4e.sock`: several daemons
/// share the directory, and a socket's path has at most 107 bytes (`UNIX_PATH_MAX`).
#[must_use]
pub fn socket_path(pin_root: &Path) -> PathBuf {
    let directory = Path::new(DIRECTORY);
    let full = std::path::absolute(pin_root).unwrap_or_else(|_| pin_root.to_owned());
    // `components` drops what means nothing: a slash at the end, a slash twice.
    let full: PathBuf = full.components().collect();
    if full == Path::new(DEFAULT_PIN_ROOT) {
        return directory.join("overlay.sock");
    }
    let hash = full
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let last = full.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let last: String = last.chars().filter(char::is_ascii_graphic).take(40).collect();
    directory.join(format!("{last}-{hash:08x}.sock"))
}
