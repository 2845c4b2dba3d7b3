//! What is reported: the documents that `--json` prints and the daemon's answers consist of. Plain data, no logic.
//!
//! | file | what it holds |
//! |---|---|
//! | `status` | a host and its daemon (`overlay status`) |
//! | `network` | one network of a host, whatever made it |
//! | `tables` | the tables and counters of a loaded data path (`overlay fdb`, `ports`, `counters`) |
//! | `store` | networks, endpoints and nodes of the store |

mod network;
mod request;
mod status;
mod store;
mod tables;

pub(crate) use network::{
    Amount, DeviceCount, NetworkDetail, NetworkKind, NetworkState, NetworkStatus, PortStatus, VtepRow,
};
pub(crate) use request::{EndpointAdd, Failure, FailureKind, NetworkCreate, Request};
pub(crate) use status::{DaemonReport, DockerReport, HeartbeatRow, ProblemList, StatusReport, UnderlayRow};
pub(crate) use store::{
    EndpointList, EndpointReport, NetworkList, NetworkReport, NodeList, NodeReport, Peer, Removed, StoreReport,
};
pub(crate) use tables::{
    CountersReport, FdbReport, FdbRow, NetworkTraffic, PortRow, PortsReport, ReasonRow, VtepTraffic,
};
