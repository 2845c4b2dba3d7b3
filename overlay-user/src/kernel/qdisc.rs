//! Traffic control: qdiscs, filters, and removal of the clsact qdisc on kernels without TCX.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{Host, KernelError, Reader};
use crate::sys::{
    bpf::syscall::{Command, bpf},
    netlink::{
        NetlinkError,
        attribute::{attribute, ne32, text},
        connection::Mode,
        raw::{Message, Raw},
    },
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
                    // The ingress qdisc has one block, and answers with it for any class (`ingress_tcf_block` in
                    // net/sched/sch_ingress.c).
                    let has_side = kind == "clsact" || side == HOOKS[0];
                    if has_side && !filters(socket.dump(GET_FILTER, &hook_request(index, side)))?.is_empty() {
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

/// The programs and filters at TC ingress of an interface.
///
/// `sch_handle_ingress` in net/core/dev.c runs the TCX programs first, then the filters in the order of their
/// priorities. Both stop at the first one whose result is not "next" (`TC_ACT_UNSPEC`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ingress {
    /// Ids of the TCX programs, in their order. Empty without TCX.
    pub programs: Vec<u32>,
    /// The filters of the clsact or ingress qdisc, by chain and priority.
    pub filters: Vec<Filter>,
}

/// A filter at TC ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Packets begin in chain 0.
    pub chain: u32,
    /// Its place in the chain; lower runs first.
    pub priority: u16,
    /// `u32`, `flower`, `matchall`, `bpf`.
    pub kind: String,
    /// ID of the program of a `bpf` filter.
    pub program: Option<u32>,
    /// Name of the program of a `bpf` filter.
    pub name: String,
    /// The block of filters is shared with other interfaces (`ingress_block`).
    pub shared: bool,
}

impl Filter {
    /// Whether it runs a program of overlay.
    pub(crate) fn is_owned(&self) -> bool {
        self.kind == "bpf" && self.name.starts_with("ovl_")
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, priority, kind, shared, .. } = self;
        write!(f, "the {kind} filter with priority {priority}")?;
        if *chain != 0 {
            write!(f, " of chain {chain}")?;
        }
        f.write_str(if *shared { " of a shared block" } else { "" })
    }
}

impl Ingress {
    /// Reads an interface of the calling thread's network namespace; `None`: it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn read(ifindex: u32) -> io::Result<Option<Self>> {
        Self::read_over(&Raw::route()?, ifindex)
    }

    /// [`Self::read`] over this socket of the namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn read_over(socket: &Raw, ifindex: u32) -> io::Result<Option<Self>> {
        let answers = filters(socket.dump(GET_FILTER, &hook_request(ifindex, HOOKS[0])));
        let filters = match answers {
            Ok(answers) => answers.iter().filter_map(|(_, message)| filter(message)).collect(),
            // Without traffic control.
            Err(error) if error.errno == libc::EOPNOTSUPP => Vec::new(),
            Err(error) if error.errno == libc::ENODEV => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Self::programs(ifindex)?.map(|programs| Self { programs, filters }))
    }

    /// Reads the TCX programs only.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn programs(ifindex: u32) -> io::Result<Option<Vec<u32>>> {
        match tcx_ingress(ifindex) {
            Ok(programs) => Ok(Some(programs)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            // Without TCX the attach type is unknown.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some(Vec::new())),
            Err(error) => Err(error),
        }
    }

    /// The filters of other owners.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Filter> {
        self.filters.iter().filter(|filter| !filter.is_owned())
    }
}

/// Reads a filter; `None` for the message that precedes the filters of one priority, which has their kind only
/// (`tcf_chain_dump` in net/sched/cls_api.c).
fn filter(message: &[u8]) -> Option<Filter> {
    /// Offsets in `struct tcmsg`; the priority is in the upper half of 32 bits.
    const IFINDEX: usize = 4;
    const INFO: usize = 16;
    /// `TCM_IFINDEX_MAGIC_BLOCK`.
    const SHARED: u32 = u32::MAX;
    /// Attributes: `TCA_KIND`, `TCA_OPTIONS`, `TCA_CHAIN`; and in the options `TCA_BPF_NAME` and `TCA_BPF_ID`.
    const KIND: u16 = 1;
    const OPTIONS: u16 = 2;
    const CHAIN: u16 = 11;
    const BPF_NAME: u16 = 7;
    const BPF_ID: u16 = 11;
    let attributes = message.get(HEADER..)?;
    let options = attribute(attributes, OPTIONS)?;
    let kind = attribute(attributes, KIND).map(text).unwrap_or_default();
    let options = if kind == "bpf" { options } else { &[] };
    Some(Filter {
        chain: attribute(attributes, CHAIN).and_then(|chain| ne32(chain, 0)).unwrap_or(0),
        priority: (ne32(message, INFO)? >> 16) as u16,
        program: attribute(options, BPF_ID).and_then(|id| ne32(id, 0)),
        name: attribute(options, BPF_NAME).map(text).unwrap_or_default(),
        shared: ne32(message, IFINDEX)? == SHARED,
        kind,
    })
}

/// Member `query` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Whether the kernel has TCX: otherwise the attach type is unknown (`bpf_prog_query` in kernel/bpf/syscall.c).
pub(crate) fn has_tcx() -> bool {
    /// Interface index of `lo`, in every namespace.
    const LOOPBACK: u32 = 1;
    !tcx_ingress(LOOPBACK).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// The ids of the TCX programs at ingress. Opening the programs of other processes requires more privileges.
fn tcx_ingress(ifindex: u32) -> io::Result<Vec<u32>> {
    /// `enum bpf_attach_type`.
    const BPF_TCX_INGRESS: u32 = 46;
    /// Maximum number of programs at one hook (`BPF_MPROG_MAX`).
    const PROGRAMS: usize = 64;
    let mut programs = vec![0_u32; PROGRAMS];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        prog_ids: programs.as_mut_ptr() as u64,
        count: PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `count` numbers to `prog_ids`, which has room for them, and into the
    // attributes; both outlive the call.
    unsafe { bpf(Command::ProgQuery, &mut query) }?;
    programs.truncate(query.count as usize);
    Ok(programs)
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
