//! What the tests, the benchmark and the fuzzer use of the library. No part of the product: the feature `testing`.

/// The command line.
pub mod cli {
    pub use crate::cli::command;
}

/// Programs, maps and the record of what is owned.
pub mod apply {
    pub use crate::apply::{
        bpf::{Counters, Datapath, Deadline, Maps, OBJECT, TableIoError, TcFlavour},
        ledger::{Ledger, PinRoot},
        socket::DIRECTORY,
    };
}

/// The daemon inside a test.
pub mod daemon {
    pub use crate::daemon::{AuditMode, Auditor, DEADLINE, Daemon, Missing, Options, down};
}

/// Names of devices.
pub mod kernel {
    pub use crate::kernel::veth_name;
}

/// What there is on a host and in a cluster.
pub mod model {
    pub use crate::model::{
        Attachment, Cluster, Endpoint, Finding, Network, NetworkSpec, Rx,
        discovery::{NetnsRef, Selector, Settings},
        network::{Admission, Cause, External, ExternalPort, Kind, Refusal},
    };
}

/// Reports.
pub mod observe {
    pub use crate::observe::{
        Snapshot,
        audit::{AuditReport, Difference, Kind, Owner},
    };
}

/// Tables and their changes.
pub mod plan {
    pub use crate::plan::{
        admission::{AdmissionInputs, Device, Devices, admit},
        change::Change,
        order::Outcome,
        tables::{Changes, Fdb, Networks, Peers, Ports, Tables, TxPorts, Underlays, Vteps},
    };
}

/// Where desired state comes from.
pub mod sources {
    pub use crate::sources::{
        Discovered, InitialState, Source, SourceResult, Update,
        discover::{Discovery, docker::DockerState},
        file::{FileSource, parse},
        store::StoreSource,
    };
}

/// Networks, endpoints and nodes in redb or etcd.
pub mod store {
    pub use crate::store::{
        EndpointRequest, EtcdOptions, NetworkRequest, NodeRequest, Registration, Removal, Store, StoreError,
        kv::{Op, Txn},
    };
}

/// The kernel's ticks.
pub mod sys {
    pub use crate::sys::ticks::ticks;
}
