//! The clsact qdisc, which the data path leaves behind on kernels without TCX.

use std::collections::{BTreeMap, BTreeSet};

use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage},
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{
    Host, HostError,
    netlink::Mode,
    raw::{Raw, attribute, ne32, text},
};

/// Major number of the clsact qdisc's handle, `ffff:`.
const CLSACT: u16 = 0xffff;
/// Minor numbers of its two sides (`TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`).
const SIDES: [u16; 2] = [0xfff2, 0xfff3];

impl Host {
    /// Removes a device's clsact qdisc, unless there are filters in it. Does nothing where there is none.
    ///
    /// # Errors
    /// [`HostError::Netlink`], [`HostError::Socket`].
    pub async fn delete_idle_clsact(&self, ifindex: u32) -> Result<(), HostError> {
        let Ok(index) = i32::try_from(ifindex) else { return Ok(()) };
        for minor in SIDES {
            let mut message = TcMessage::with_index(index);
            message.header.parent = TcHandle { major: CLSACT, minor };
            if has_filters(message).map_err(HostError::Socket)? {
                return Ok(());
            }
        }
        let mut message = TcMessage::with_index(index);
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle { major: CLSACT, minor: 0 };
        match self.netlink.change(RouteNetlinkMessage::DelQueueDiscipline(message), Mode::Existing).await {
            // EINVAL: "Cannot find specified qdisc on specified device".
            Err(error) if error.is_missing() || error.errno == libc::EINVAL => Ok(()),
            result => result.map_err(HostError::netlink(format!("remove the clsact qdisc of interface {ifindex}"))),
        }
    }
}

/// Interfaces of the calling thread's network namespace on which traffic control does something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficControl {
    /// With a queueing discipline that somebody has set, and which.
    pub shaped: BTreeMap<u32, String>,
    /// With filters or programs before the interface sends (clsact egress, TCX).
    pub egress: BTreeSet<u32>,
    /// With filters or programs on what the interface receives.
    pub ingress: BTreeSet<u32>,
}

/// Reads what traffic control does in the calling thread's network namespace; TCX programs of these `devices` (index and
/// name) alone.
///
/// # Errors
/// The kernel's.
pub fn traffic_control(devices: &[(u32, String)]) -> std::io::Result<TrafficControl> {
    /// `RTM_GETQDISC`.
    const GET_QDISC: u16 = 38;
    /// `TC_H_ROOT`; every other parent is a part of a qdisc that is counted already.
    const ROOT: u32 = u32::MAX;
    let mut control = TrafficControl::default();
    let Some(socket) = Raw::open(NETLINK_ROUTE)? else { return Ok(control) };
    for (_, message) in socket.dump(GET_QDISC, &[0; HEADER])? {
        let Some(Qdisc { index, handle, parent, kind }) = qdisc(&message) else { continue };
        if kind == "clsact" || kind == "ingress" {
            let mut side = TcMessage::with_index(index.cast_signed());
            for (minor, found) in SIDES.into_iter().zip([&mut control.ingress, &mut control.egress]) {
                side.header.parent = TcHandle { major: CLSACT, minor };
                if has_filters(side.clone())? {
                    found.insert(index);
                }
            }
        } else if parent == ROOT && handle != 0 {
            // The kernel's default ones have no handle.
            control.shaped.insert(index, kind);
        }
    }
    for (index, name) in devices {
        // An error is that of a kernel without TCX, or of a device that has gone.
        let programs = |side| SchedClassifier::query_tcx(name, side).is_ok_and(|(_, programs)| !programs.is_empty());
        if programs(TcAttachType::Ingress) {
            control.ingress.insert(*index);
        }
        if programs(TcAttachType::Egress) {
            control.egress.insert(*index);
        }
    }
    Ok(control)
}

/// The BPF filters at the ingress of an interface of the calling thread's network namespace: priority, and number of the
/// program. None where there is no clsact qdisc.
///
/// # Errors
/// The kernel's.
pub(crate) fn ingress_filters(ifindex: u32) -> std::io::Result<Vec<(u16, u32)>> {
    /// `RTM_GETTFILTER`.
    const GET_FILTER: u16 = 46;
    /// Offset of the priority in `struct tcmsg`, in the upper half of 32 bits.
    const INFO: usize = 16;
    /// Attributes: `TCA_OPTIONS`, and in it `TCA_BPF_ID`.
    const OPTIONS: u16 = 2;
    const BPF_ID: u16 = 11;
    let Some(socket) = Raw::open(NETLINK_ROUTE)? else { return Ok(Vec::new()) };
    let parent = u32::from(CLSACT) << 16 | u32::from(SIDES[0]);
    let request: Vec<u8> =
        [0, ifindex, 0, parent, 0].into_iter().flat_map(|number: u32| number.to_ne_bytes()).collect();
    let answers = match socket.dump(GET_FILTER, &request) {
        // No such qdisc.
        Err(error) if [Some(libc::EINVAL), Some(libc::ENOENT)].contains(&error.raw_os_error()) => return Ok(Vec::new()),
        answers => answers?,
    };
    let program = |message: &[u8]| {
        let options = attribute(message.get(HEADER..)?, OPTIONS)?;
        Some(((ne32(message, INFO)? >> 16) as u16, ne32(attribute(options, BPF_ID)?, 0)?))
    };
    Ok(answers.iter().filter_map(|(_, message)| program(message)).collect())
}

/// Length of a `struct tcmsg`.
const HEADER: usize = 20;

/// A queueing discipline: whose, its handle and its parent's, and what it is called.
pub(super) struct Qdisc {
    index: u32,
    handle: u32,
    parent: u32,
    kind: String,
}

/// What a message says.
pub(super) fn qdisc(message: &[u8]) -> Option<Qdisc> {
    /// Offsets in `struct tcmsg`.
    const IFINDEX: usize = 4;
    const HANDLE: usize = 8;
    const PARENT: usize = 12;
    let kind = message.get(HEADER..).and_then(|bytes| attribute(bytes, 1)).map(text).unwrap_or_default();
    let [index, handle, parent] = [IFINDEX, HANDLE, PARENT].map(|offset| ne32(message, offset));
    Some(Qdisc { index: index?, handle: handle?, parent: parent?, kind })
}

/// Whether a side of a qdisc has any filter. On a socket of its own, because the connection drops answers that it cannot
/// decode, and a filter of an unknown kind is a filter.
fn has_filters(message: TcMessage) -> std::io::Result<bool> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetTrafficFilter(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // A dump begins with the first filter, or is over at once.
    match NetlinkBuffer::new_checked(&answer) {
        Ok(first) => Ok(![NLMSG_DONE, NLMSG_ERROR].contains(&first.message_type())),
        Err(_) => Ok(true),
    }
}
