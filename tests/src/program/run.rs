//! Runs of a program over a packet.

use std::io;

use overlay_common::{Reason, maps::Count};

use super::{
    Hook, Outcome, Programs, Skb,
    kernel::{self, TEST_SKB_CHECKSUM_COMPLETE, sk_buff, test_run},
};

impl Programs {
    /// Runs a hook's program over a packet.
    ///
    /// # Panics
    /// When the kernel rejects the run.
    #[track_caller]
    pub fn run(&self, hook: Hook, packet: &[u8]) -> Outcome {
        self.run_skb(hook, packet, Skb::default())
    }

    /// Runs a hook's program over a packet with the given skb fields.
    ///
    /// # Panics
    /// When the kernel rejects the run.
    #[track_caller]
    pub fn run_skb(&self, hook: Hook, packet: &[u8], skb: Skb) -> Outcome {
        let length = packet.len();
        self.try_run(hook, packet, skb).unwrap_or_else(|error| {
            panic!("cannot run {hook:?} over {length} bytes with {skb:?}: {error}");
        })
    }

    /// Runs a hook's program over a packet with the given skb fields.
    ///
    /// # Errors
    /// Errors of `BPF_PROG_TEST_RUN`.
    pub fn try_run(&self, hook: Hook, packet: &[u8], skb: Skb) -> io::Result<Outcome> {
        let (action, packet) = self.execute(hook, packet, skb)?;
        let counts = Reason::ALL.map(|reason| self.count(reason));
        let before = self.counted.replace(counts);
        let counted = Reason::ALL.into_iter().zip(before.into_iter().zip(counts)).filter(|(_, (old, new))| old != new);
        let difference =
            |(old, new): (Count, Count)| Count { packets: new.packets - old.packets, bytes: new.bytes - old.bytes };
        Ok(Outcome { hook, action, packet, counted: counted.map(|(r, pair)| (r, difference(pair))).collect() })
    }

    /// Runs a hook's program without reading counters; returns the verdict and the packet after the run.
    ///
    /// # Errors
    /// As [`Self::try_run`].
    pub fn execute(&self, hook: Hook, packet: &[u8], skb: Skb) -> io::Result<(u32, Vec<u8>)> {
        let (program, ifindex) = match hook {
            Hook::PortIn => (&self.port_in, self.port),
            Hook::NicIn => (&self.nic_in, self.nic),
            Hook::PortCheck => (&self.port_check, self.port),
            Hook::NicCheck => (&self.nic_check, self.nic),
            Hook::NicXdp => (&self.nic_xdp, 0),
            // The programs of a shim do not use the ingress interface.
            Hook::ShimOut => (&self.shim_out, self.other_interface),
            Hook::ShimIn => (&self.shim_in, self.other_interface),
        };
        let context = match (hook, skb.linear) {
            (Hook::NicXdp, None) => Vec::new(),
            // struct xdp_md: `data_end` is the second of six words.
            (Hook::NicXdp, Some(linear)) => vec![0, linear, 0, 0, 0, 0],
            _ => sk_buff(skb.ifindex.unwrap_or(ifindex), skb),
        };
        let flags = if skb.checksum_complete { TEST_SKB_CHECKSUM_COMPLETE } else { 0 };
        test_run(program, packet, &context, flags)
    }

    /// The CPUs that the test may use.
    #[must_use]
    pub fn cpus(&self) -> Vec<usize> {
        kernel::cpus()
    }

    /// Runs the programs on this CPU from now on.
    pub fn pin(&self, cpu: usize) {
        kernel::pin(cpu);
    }

    /// The kernel's flow hash of a frame.
    ///
    /// # Errors
    /// As [`Self::try_run`].
    pub fn flow_hash(&self, frame: &[u8]) -> io::Result<u32> {
        Ok(test_run(&self.flow_hash, frame, &sk_buff(self.port, Skb::default()), 0)?.0)
    }

    /// Counter of a reason since the maps were created.
    ///
    /// # Panics
    /// When the map cannot be read.
    #[must_use]
    pub fn count(&self, reason: Reason) -> Count {
        let values = self.reasons.get(&(reason as u32), 0).expect("every reason has an entry");
        values.iter().fold(Count::default(), |mut sum, value| {
            sum.add(value.packets, value.bytes);
            sum
        })
    }
}
