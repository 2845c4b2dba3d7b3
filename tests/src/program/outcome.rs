//! The result of a program run, and assertions on it.

use overlay_common::{Reason, maps::Count};

use super::Hook;

/// The result of a program run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hook of the program.
    pub hook: Hook,
    /// Return value.
    pub action: u32,
    /// The packet after the run.
    pub packet: Vec<u8>,
    /// Increments of the reason counters.
    pub counted: Vec<(Reason, Count)>,
}

impl Outcome {
    /// Asserts that the packet was passed to the kernel unmodified.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_passed_to_kernel(&self, packet: &[u8]) {
        assert_eq!(self.action, self.hook.kernel(), "verdict of {:?}: {:?}", self.hook, self.counted);
        assert_bytes(&self.packet, packet);
    }

    /// Asserts that the packet was passed to the kernel unmodified, and counted once under `reason`. XDP does not count
    /// packets that TC counts again under the same reason.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_kernel(&self, reason: Reason, packet: &[u8]) {
        self.assert_passed_to_kernel(packet);
        if self.hook == Hook::NicXdp && !matches!(reason, Reason::XdpTcp | Reason::XdpPort) {
            assert_eq!(self.counted, []);
        } else {
            self.assert_counted(reason, packet.len());
        }
    }

    /// Asserts that the packet was dropped and counted once under `reason`.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_dropped(&self, reason: Reason, bytes: usize) {
        assert_eq!(self.action, self.hook.drop(), "verdict of {:?}: {:?}", self.hook, self.counted);
        self.assert_counted(reason, bytes);
    }

    /// Asserts that the packet was forwarded as `expected`, and counted once under `reason` with `bytes`.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_forwarded(&self, reason: Reason, bytes: usize, expected: &[u8]) {
        assert_eq!(self.action, self.hook.redirect(), "verdict of {:?}: {:?}", self.hook, self.counted);
        assert_bytes(&self.packet, expected);
        self.assert_counted(reason, bytes);
    }

    #[track_caller]
    fn assert_counted(&self, reason: Reason, bytes: usize) {
        assert_eq!(self.counted, [(reason, Count { packets: 1, bytes: bytes as u64 })]);
    }
}

/// Compares packets and shows the first difference.
///
/// # Panics
/// When there is one.
#[track_caller]
pub fn assert_bytes(found: &[u8], expected: &[u8]) {
    if let Some(at) = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at)) {
        panic!("packets differ from byte {at} on\n   found {found:02x?}\nexpected {expected:02x?}");
    }
}
