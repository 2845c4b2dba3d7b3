//! Requests and reports: the documents of `--json` and of the daemon's answers. Plain data, no logic.
//!
//! | file | contents |
//! |---|---|
//! | `request` | requests and failures |
//! | `status` | a host and its daemon (`overlay status`) |
//! | `network` | one network of a host, managed or external |
//! | `tables` | the tables and counters of a loaded data path (`overlay fdb`, `ports`, `counters`) |
//! | `store` | networks, endpoints and nodes of the store |

mod network;
mod request;
mod status;
mod store;
mod tables;

pub(crate) use network::{
    Amount, DeviceCount, NetworkDetail, NetworkKind, NetworkState, NetworkStatus, PortStatus, UnresolvedVtep, VtepRow,
};
pub(crate) use request::{EndpointAdd, Failure, FailureKind, NetworkCreate, Request};
pub(crate) use status::{DaemonReport, DockerReport, HeartbeatRow, ProblemList, StatusReport, UnderlayRow};
pub(crate) use store::{
    EndpointList, EndpointReport, NetworkList, NetworkReport, NodeList, NodeReport, Peer, Removed, StoreReport,
};
pub(crate) use tables::{
    CountersReport, FdbReport, FdbRow, NetworkTraffic, PortRow, PortsReport, ReasonRow, VtepTraffic,
};
