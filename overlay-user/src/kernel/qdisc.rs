//! Traffic control: qdiscs, filters, and removal of the clsact qdisc on kernels without TCX.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{Host, KernelError, Reader};
use crate::sys::netlink::{
    NetlinkError,
    attribute::{attribute, ne32, text},
    connection::Mode,
    raw::{Message, Raw},
};

/// Major number of the clsact qdisc's handle, `ffff:`.
const CLSACT: u16 = 0xffff;
/// Minor numbers of its ingress and egress hooks (`TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`).
const HOOKS: [u16; 2] = [0xfff2, 0xfff3];

impl Host {
    /// Removes a device's clsact qdisc if it exists and has no filters.
    ///
    /// # Errors
    /// [`KernelError::Netlink`].
    pub(crate) async fn delete_idle_clsact(&self, ifindex: u32) -> Result<(), KernelError> {
        let Ok(index) = i32::try_from(ifindex) else { return Ok(()) };
        for side in HOOKS {
            let filters = self.read(move |reader| {
                let filters = filters(reader.dump_raw(GET_FILTER, &hook_request(ifindex, side)));
                filters.map_err(KernelError::netlink(format!("list the filters of interface {ifindex}")))
            });
            if !filters.await?.is_empty() {
                return Ok(());
            }
        }
        let mut message = TcMessage::with_index(index);
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle { major: CLSACT, minor: 0 };
        match self.netlink.change(RouteNetlinkMessage::DelQueueDiscipline(message), Mode::Existing).await {
            // EINVAL: "Cannot find specified qdisc on specified device".
            Err(error) if error.is_missing() || error.errno == libc::EINVAL => Ok(()),
            result => result.map_err(KernelError::netlink(format!("remove the clsact qdisc of interface {ifindex}"))),
        }
    }
}

/// Interfaces of the calling thread's network namespace with traffic control.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrafficControl {
    /// Interfaces with a configured qdisc, and its kind.
    pub shaped: BTreeMap<u32, String>,
    /// Interfaces with filters or programs on egress (clsact, TCX).
    pub egress: BTreeSet<u32>,
    /// Interfaces with filters or programs on ingress.
    pub ingress: BTreeSet<u32>,
}

impl Reader {
    /// Reads traffic control of the calling thread's network namespace, which must be the reader's; TCX programs only
    /// of these `devices` (index and name).
    ///
    /// # Errors
    /// The kernel's. The result is empty on a kernel without traffic control.
    pub(crate) fn traffic_control(&self, devices: &[(u32, String)]) -> io::Result<TrafficControl> {
        /// `RTM_GETQDISC`.
        const GET_QDISC: u16 = 38;
        /// `TC_H_ROOT`; qdiscs with another parent belong to a root qdisc.
        const ROOT: u32 = u32::MAX;
        let mut control = TrafficControl::default();
        let socket = self.socket();
        let qdiscs = match socket.dump(GET_QDISC, &[0; HEADER]) {
            Err(error) if error.errno == libc::EOPNOTSUPP => return Ok(control),
            qdiscs => qdiscs?,
        };
        for (_, message) in qdiscs {
            let Some(Qdisc { index, handle, parent, kind }) = qdisc(&message) else { continue };
            if kind == "clsact" || kind == "ingress" {
                for (side, found) in HOOKS.into_iter().zip([&mut control.ingress, &mut control.egress]) {
                    if !filters(socket.dump(GET_FILTER, &hook_request(index, side)))?.is_empty() {
                        found.insert(index);
                    }
                }
            } else if parent == ROOT && handle != 0 {
                // Default qdiscs of the kernel have no handle.
                control.shaped.insert(index, kind);
            }
        }
        for (index, name) in devices {
            // Errors mean a kernel without TCX, or a removed device.
            let programs =
                |side| SchedClassifier::query_tcx(name, side).is_ok_and(|(_, programs)| !programs.is_empty());
            if programs(TcAttachType::Ingress) {
                control.ingress.insert(*index);
            }
            if programs(TcAttachType::Egress) {
                control.egress.insert(*index);
            }
        }
        Ok(control)
    }
}

/// The BPF filters on clsact ingress of an interface of the calling thread's network namespace: priority and program
/// ID.
///
/// # Errors
/// The kernel's.
pub(crate) fn ingress_filters(ifindex: u32) -> io::Result<Vec<(u16, u32)>> {
    /// Offset of the priority in `struct tcmsg`, in the upper half of 32 bits.
    const INFO: usize = 16;
    /// Attributes: `TCA_OPTIONS`, and in it `TCA_BPF_ID`.
    const OPTIONS: u16 = 2;
    const BPF_ID: u16 = 11;
    let answers = filters(Raw::route()?.dump(GET_FILTER, &hook_request(ifindex, HOOKS[0])))?;
    let program = |message: &[u8]| {
        let options = attribute(message.get(HEADER..)?, OPTIONS)?;
        Some(((ne32(message, INFO)? >> 16) as u16, ne32(attribute(options, BPF_ID)?, 0)?))
    };
    Ok(answers.iter().filter_map(|(_, message)| program(message)).collect())
}

/// Length of a `struct tcmsg`.
const HEADER: usize = 20;

/// A queueing discipline: interface index, handle, parent's handle, and kind.
pub(crate) struct Qdisc {
    index: u32,
    handle: u32,
    parent: u32,
    kind: String,
}

/// Reads a qdisc message.
pub(crate) fn qdisc(message: &[u8]) -> Option<Qdisc> {
    /// Offsets in `struct tcmsg`.
    const IFINDEX: usize = 4;
    const HANDLE: usize = 8;
    const PARENT: usize = 12;
    let kind = message.get(HEADER..).and_then(|bytes| attribute(bytes, 1)).map(text).unwrap_or_default();
    let [index, handle, parent] = [IFINDEX, HANDLE, PARENT].map(|offset| ne32(message, offset));
    Some(Qdisc { index: index?, handle: handle?, parent: parent?, kind })
}

/// `RTM_GETTFILTER`.
const GET_FILTER: u16 = 46;

/// The `struct tcmsg` for one hook of an interface's clsact qdisc.
fn hook_request(ifindex: u32, minor: u16) -> Vec<u8> {
    let parent = u32::from(CLSACT) << 16 | u32::from(minor);
    [0, ifindex, 0, parent, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// The filters of one hook, not decoded, so that filters of unknown kinds count.
fn filters(answer: Result<Vec<Message>, NetlinkError>) -> Result<Vec<Message>, NetlinkError> {
    match answer {
        // The qdisc does not exist.
        Err(error) if [libc::EINVAL, libc::ENOENT].contains(&error.errno) => Ok(Vec::new()),
        answer => answer,
    }
}
