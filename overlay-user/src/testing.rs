//! Items for the tests, the benchmark and the fuzzer, with the feature `testing`. Not part of the product.

/// The command line.
pub mod cli {
    pub use crate::cli::command;
}

/// Programs, maps and the ownership record.
pub mod apply {
    pub use crate::apply::{
        bpf::{Counters, Datapath, Deadline, Maps, TableIoError, TcFlavour, object},
        ledger::{Ledger, PinRoot},
        socket::DIRECTORY,
    };
}

/// The daemon.
pub mod daemon {
    pub use crate::daemon::{AuditMode, Auditor, DEADLINE, Daemon, Missing, Options, down};
}

/// Names of devices.
pub mod kernel {
    pub use crate::kernel::{XdpMode, veth_name};
}

/// The configuration model.
pub mod model {
    pub use crate::model::{
        Attachment, Cluster, Endpoint, Finding, Network, NetworkSpec, Rx,
        discovery::{NetnsRef, Selector, Settings},
        network::{Admission, Cause, External, ExternalPort, Kind, Refusal, Tunnel},
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

/// Sources of the desired state.
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

/// Ticks of the kernel.
pub mod sys {
    pub use crate::sys::ticks::ticks;
}
