//! What came out of a program, and what a test asserts of it.

use overlay_common::{Reason, maps::Count};

use super::Hook;

/// What came out of a program.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hook that ran.
    pub hook: Hook,
    /// What it returned.
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The reasons that were counted, and by how much.
    pub counted: Vec<(Reason, Count)>,
}

impl Outcome {
    /// That the packet went on to the kernel, unchanged.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_left_to_kernel(&self, packet: &[u8]) {
        assert_eq!(self.action, self.hook.kernel(), "verdict of {:?}: {:?}", self.hook, self.counted);
        assert_bytes(&self.packet, packet);
    }

    /// That the packet went on to the kernel, unchanged, and that the hook counted it once, under `reason`. XDP does
    /// not count what TC will see again under the same name.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn assert_kernel(&self, reason: Reason, packet: &[u8]) {
        self.assert_left_to_kernel(packet);
        if self.hook == Hook::NicXdp && !matches!(reason, Reason::XdpTcp | Reason::XdpPort) {
            assert_eq!(self.counted, []);
        } else {
            self.assert_counted(reason, packet.len());
        }
    }

    /// That the packet was dropped and counted once, under `reason`.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn assert_dropped(&self, reason: Reason, bytes: usize) {
        assert_eq!(self.action, self.hook.drop(), "verdict of {:?}: {:?}", self.hook, self.counted);
        self.assert_counted(reason, bytes);
    }

    /// That the packet was forwarded as `expected`, and counted once, with `bytes`, as what the hook does.
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
