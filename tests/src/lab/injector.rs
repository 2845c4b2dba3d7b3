//! Faults of a wire: each oracle of the suites has to notice one.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Lab, NIC, NetNs, PacketSocket, traffic};

/// UDP port of VXLAN (RFC 7348).
const VXLAN: u16 = 4789;
/// Read timeout of the threads: the interval at which they check whether to stop.
const TICK: Duration = Duration::from_millis(20);
/// Longest time until a fault is injected.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A fault of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The packet is lost.
    Loss,
    /// The packet is delivered after the next one of its flow.
    Reordering,
    /// The packet is delivered twice.
    Duplication,
    /// The last bit of the payload is flipped, and the checksum of layer 4 is that of the changed payload: a socket
    /// receives it.
    Corruption,
    /// The last bit of the payload is flipped, and the checksum of layer 4 is unmodified: the kernel drops it before
    /// any socket.
    InvalidChecksum,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 5] =
        [Self::Loss, Self::Reordering, Self::Duplication, Self::Corruption, Self::InvalidChecksum];
}

/// Selects frames.
type Matches = Box<dyn Fn(&[u8]) -> bool + Send>;

/// Injects one fault into a sequence of frames, exactly once.
///
/// Frames may be encapsulated in VXLAN on port 4789: checksum, payload and flow are those of the inner packet.
pub struct Injector {
    fault: Fault,
    /// Matching frames before the fault.
    skip: u64,
    matches: Matches,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// A frame that is delivered after the next one of its flow.
    Holding(Vec<u8>),
    Injected,
}

impl fmt::Debug for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after {} frames, {:?}", self.fault, self.skip, self.state)
    }
}

impl Injector {
    /// The fault of the frame after `skip` frames for which `matches` is true.
    pub fn new(fault: Fault, skip: u64, matches: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        Self { fault, skip, matches: Box::new(matches), state: State::Waiting }
    }

    /// The fault of the UDP datagram after `skip` datagrams with `size` bytes of payload.
    #[must_use]
    pub fn datagram(fault: Fault, skip: u64, size: usize) -> Self {
        Self::new(fault, skip, move |frame| {
            Layer4::find(frame).is_some_and(|layer4| layer4.protocol == UDP && frame.len() == layer4.at + 8 + size)
        })
    }

    /// The frames that are delivered, in their order, when `frame` is sent.
    pub fn pass(&mut self, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        match &self.state {
            State::Injected => return vec![frame],
            State::Holding(held) if flow(held) == flow(&frame) => {
                let State::Holding(held) = std::mem::replace(&mut self.state, State::Injected) else { unreachable!() };
                return vec![frame, held];
            }
            State::Holding(_) => return vec![frame],
            State::Waiting if !(self.matches)(&frame) => return vec![frame],
            State::Waiting if self.skip > 0 => {
                self.skip -= 1;
                return vec![frame];
            }
            State::Waiting => self.state = State::Injected,
        }
        match self.fault {
            Fault::Loss => vec![],
            Fault::Reordering => {
                self.state = State::Holding(frame);
                vec![]
            }
            Fault::Duplication => vec![frame.clone(), frame],
            Fault::Corruption | Fault::InvalidChecksum => {
                flip_last_bit(&mut frame, self.fault == Fault::Corruption);
                vec![frame]
            }
        }
    }

    /// Whether the fault was injected.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Injected
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The innermost layer-4 header of a frame without fragments and IPv6 extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layer4 {
    protocol: u8,
    /// Offset of the IP addresses, and their length together.
    addresses: (usize, usize),
    /// Offset of the header.
    at: usize,
}

impl Layer4 {
    fn find(frame: &[u8]) -> Option<Self> {
        let found = match frame.get(12..14)? {
            [0x08, 0x00] => {
                let length = usize::from(frame.get(14)? & 0xf) * 4;
                Self { protocol: *frame.get(23)?, addresses: (26, 8), at: 14 + length }
            }
            [0x86, 0xdd] => Self { protocol: *frame.get(20)?, addresses: (22, 32), at: 54 },
            _ => return None,
        };
        if found.protocol == UDP && frame.get(found.at + 2..found.at + 4)? == VXLAN.to_be_bytes() {
            let inner_at = found.at + 16;
            let inner = Self::find(frame.get(inner_at..)?)?;
            return Some(Self {
                addresses: (inner_at + inner.addresses.0, inner.addresses.1),
                at: inner_at + inner.at,
                ..inner
            });
        }
        Some(found)
    }

    /// Offset of the checksum.
    fn checksum(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(self.at + 16),
            UDP => Some(self.at + 6),
            1 | 58 => Some(self.at + 2),
            _ => None,
        }
    }
}

/// Addresses, protocol, and ports.
fn flow(frame: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let Layer4 { protocol, addresses: (at, length), at: ports } = Layer4::find(frame)?;
    Some((frame.get(at..at + length)?, protocol, frame.get(ports..ports + 4)?))
}

/// Flips the last bit of a frame, and corrects the checksum of layer 4 if `corrects` is set (RFC 1624). Without a
/// checksum (UDP 0) there is none to correct.
fn flip_last_bit(frame: &mut [u8], corrects: bool) {
    let layer4 = Layer4::find(frame).expect("the frame has a layer-4 header");
    let last = frame.len() - 1;
    frame[last] ^= 1;
    if !corrects {
        return;
    }
    let at = layer4.checksum().expect("the protocol has a checksum");
    // Position of the last byte in its word of 16 bits.
    let shift = if (last - layer4.at).is_multiple_of(2) { 8 } else { 0 };
    let (new, old) = (u16::from(frame[last]) << shift, u16::from(frame[last] ^ 1) << shift);
    let checksum = u16::from_be_bytes([frame[at], frame[at + 1]]);
    if checksum == 0 && layer4.protocol == UDP {
        return;
    }
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let corrected = match !(sum as u16) {
        0 if layer4.protocol == UDP => 0xffff,
        corrected => corrected,
    };
    frame[at..at + 2].copy_from_slice(&corrected.to_be_bytes());
}

/// A wire between one host and the switch of its lab that passes the host's frames through an [`Injector`].
///
/// A relay in user space: it carries all frames, also those to the host, one by one and unmodified. Super-packets and
/// partial checksums do not leave the host: the transmit offloads of its NIC are off. VLAN tags are lost.
#[derive(Debug)]
pub struct FaultyWire {
    injector: Arc<Mutex<Option<Injector>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl FaultyWire {
    /// Replaces the wire of the `number`th host. The lab needs a switch.
    ///
    /// # Errors
    /// When the lab has no switch, or a command fails.
    pub fn insert(lab: &Lab, number: usize) -> Result<Self> {
        let host = lab.host(number);
        let switch = lab.switch().context("two hosts have no switch; build the lab with `with_switch`")?;
        let port = format!("{}-0", host.name());
        let port = port.as_str();
        host.try_run(&["ethtool", "-K", NIC, "tx", "off"])?;
        switch.try_script(&format!(
            "ip link set {port} nomaster
            ip link add relayed mtu 1500 type veth peer name relay mtu 1500
            ethtool -K relayed tx off
            ip link set relayed master br0 up
            ip link set relay up"
        ))?;
        switch.wait_for_devices()?;
        let (injector, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let ways = [(port, "relay", Some(Arc::clone(&injector))), ("relay", port, None)];
        let relay = |(from, to, injector)| Self::relay(switch, [from, to], injector, Arc::clone(&stop));
        let threads = ways.into_iter().map(relay).collect::<Result<_>>()?;
        Ok(Self { injector, stop, threads })
    }

    fn relay(
        switch: &NetNs,
        [from, to]: [&str; 2],
        injector: Option<Arc<Mutex<Option<Injector>>>>,
        stop: Arc<AtomicBool>,
    ) -> Result<JoinHandle<Result<()>>> {
        let (from, to) = (PacketSocket::open(switch, from)?, PacketSocket::open(switch, to)?);
        Ok(thread::spawn(move || {
            traffic::pin_here();
            while !stop.load(Ordering::Relaxed) {
                let Some(frame) = from.receive(Instant::now() + TICK)? else { continue };
                let mut injector = injector.as_ref().map(|injector| lock(injector));
                let frames = match injector.as_mut().and_then(|injector| injector.as_mut()) {
                    Some(injector) => injector.pass(frame),
                    None => vec![frame],
                };
                frames.iter().try_for_each(|frame| to.send(frame))?;
            }
            Ok(())
        }))
    }

    /// Injects a fault into the frames that the host sends from now on.
    pub fn inject(&self, injector: Injector) {
        *lock(&self.injector) = Some(injector);
    }

    /// Waits until the fault is injected.
    ///
    /// # Errors
    /// After 10 s, or without a fault to inject.
    pub fn wait_until_injected(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            match &*lock(&self.injector) {
                None => bail!("no fault to inject"),
                Some(injector) if injector.is_done() => return Ok(()),
                Some(injector) => ensure!(start.elapsed() < TIMEOUT, "not injected after {TIMEOUT:?}: {injector:?}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Stops the relay. The host has no wire any more.
impl Drop for FaultyWire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("the relay has stopped: {error:#}"),
                Err(_) => eprintln!("the relay has panicked"),
            }
        }
    }
}

fn lock(injector: &Mutex<Option<Injector>>) -> std::sync::MutexGuard<'_, Option<Injector>> {
    injector.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frame::{self, Inner, Version, has_valid_checksums},
        program::{GINDEMO1, GINDEMO2, to_node2},
    };

    /// Frame `number` of a flow.
    fn numbered(version: Version, l4: frame::L4, number: u8) -> Vec<u8> {
        Inner::new(GINDEMO1, GINDEMO2, version, l4).payload(&[number; 7]).bytes()
    }

    #[test]
    fn every_fault_changes_one_frame_of_a_sequence() {
        let sent: Vec<_> = (0..6).map(|number| numbered(Version::V4, frame::L4::Udp(5000, 53), number)).collect();
        let other = numbered(Version::V4, frame::L4::Udp(5000, 54), 9);
        for fault in Fault::ALL {
            let mut injector = Injector::datagram(fault, 2, 7);
            let mut passed: Vec<_> = sent[..3].iter().cloned().flat_map(|frame| injector.pass(frame)).collect();
            // A frame of another flow does not end the reordering.
            assert_eq!(injector.pass(other.clone()), [&other[..]]);
            passed.extend(sent[3..].iter().cloned().flat_map(|frame| injector.pass(frame)));
            assert!(injector.is_done());
            let mut changed = sent[2].clone();
            *changed.last_mut().unwrap() ^= 1;
            let expected: Vec<_> = match fault {
                Fault::Loss => [0, 1, 3, 4, 5].map(|number: usize| sent[number].clone()).into(),
                Fault::Reordering => [0, 1, 3, 2, 4, 5].map(|number: usize| sent[number].clone()).into(),
                Fault::Duplication => [0, 1, 2, 2, 3, 4, 5].map(|number: usize| sent[number].clone()).into(),
                Fault::InvalidChecksum => [&sent[..2], &[changed], &sent[3..]].concat(),
                Fault::Corruption => {
                    changed[40..42].copy_from_slice(&passed[2][40..42]);
                    [&sent[..2], &[changed], &sent[3..]].concat()
                }
            };
            assert_eq!(passed, expected, "{fault:?}");
        }
    }

    #[test]
    fn corruption_corrects_the_checksum_and_the_other_fault_does_not() {
        for version in [Version::V4, Version::V6] {
            for l4 in [frame::L4::Udp(5000, 53), frame::L4::Tcp(5000, 80), frame::L4::Icmp] {
                // Even and odd lengths; both values of the bit.
                for payload in [vec![0; 7], vec![0xff; 7], vec![0; 8], vec![0xff; 8]] {
                    let inner = Inner::new(GINDEMO1, GINDEMO2, version, l4).payload(&payload).bytes();
                    for (frame, at) in [(inner.clone(), 0), (to_node2().encapsulate(&inner), frame::OUTER_LEN)] {
                        for fault in [Fault::Corruption, Fault::InvalidChecksum] {
                            let [found] = Injector::new(fault, 0, |_| true).pass(frame.clone()).try_into().unwrap();
                            assert_eq!(found.last().unwrap() ^ 1, *frame.last().unwrap());
                            let is_valid = has_valid_checksums(&found[at..]);
                            assert_eq!(is_valid, fault == Fault::Corruption, "{version:?} {l4:?} {payload:?}");
                        }
                    }
                }
            }
        }
    }
}
