//! `overlay run`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{
    UsageError,
    discover::DiscoverArgs,
    output,
    remote::SocketArgs,
    store::{EtcdArgs, NodeArgs, Registered, hostname},
};
use crate::{
    api::{About, Answers, Control, Server},
    apply::ledger::{PinError, PinRoot},
    apply::socket::Listener,
    daemon::{self, Daemon, DaemonError, Missing, Options, PreflightError, Reach},
    model::Rx,
    observe::EventLog,
    sources::{InitialState, Source, Sources, file::FileSource},
};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Configuration file of the cluster, in TOML. The file is watched.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "node", "node_name", "data_dir"])]
    config: Option<PathBuf>,
    /// Store of networks and endpoints. Default: embedded, unless --config or --discover is given.
    #[arg(long, value_enum, value_name = "STORE")]
    store: Option<StoreKind>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    discover: DiscoverArgs,
    /// Heartbeat deadline in seconds: without a running daemon, packets fall back to the kernel path after this time.
    /// 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = daemon::DEADLINE.as_secs())]
    deadline: u64,
    /// Receive hook: TC, after GRO; or XDP, for everything but TCP. A configuration file has its own key `rx`.
    #[arg(long, value_enum, value_name = "HOOK", conflicts_with = "config", default_value = "tc")]
    rx: Receive,
    /// Group whose members may use the daemon's socket, besides root.
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
    /// Print one JSON document when the data path is ready.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

impl RunArgs {
    /// The group of the socket.
    pub(super) fn socket_group(&self) -> Option<&str> {
        self.socket_group.as_deref()
    }

    fn listen(&self) -> anyhow::Result<Listener> {
        // A running daemon has the socket too; this error names its pid.
        match PinRoot::open(&self.socket.pins.pin_root) {
            Ok(root) => {
                if let Some(pid) = root.daemon_pid() {
                    return Err(PinError::Busy(root.path().to_owned(), format!(" (pid {pid})")).into());
                }
            }
            Err(PinError::Absent(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Listener::bind(&self.socket.path(), self.socket_group())?)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    /// A database of this host alone, in --data-dir.
    Embedded,
    /// etcd v3, for a cluster.
    Etcd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Receive {
    Tc,
    Xdp,
}

impl From<Receive> for Rx {
    fn from(receive: Receive) -> Self {
        match receive {
            Receive::Tc => Self::Tc,
            Receive::Xdp => Self::Xdp,
        }
    }
}

/// The sources of a daemon, and their first state.
struct Startup<S> {
    sources: Sources<S>,
    first: InitialState,
    missing: Missing,
    control: Control,
    listener: Listener,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut stop = std::pin::pin!(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    if args.store != Some(StoreKind::Etcd) && args.etcd.is_given() {
        return Err(
            UsageError("--etcd and its options need --store etcd; add it, or leave the options out".into()).into()
        );
    }
    if let Some(path) = &args.config {
        let (sources, first) = Sources::start(Some(FileSource::new(path)), args.discover.over())
            .await
            .map_err(|error| UsageError(error.to_string()))?;
        let discovers = first.cluster.as_ref().is_some_and(|cluster| cluster.discover.is_some());
        daemon::privileges(if discovers { Reach::Containers } else { Reach::Host })?;
        let control = Control::File(path.clone());
        let listener = args.listen()?;
        return follow(&args, Startup { sources, first, missing: Missing::Refused, control, listener }, stop).await;
    }
    daemon::privileges(Reach::Containers)?;
    // Before the registration: a second daemon must not replace the first one's.
    let listener = args.listen()?;
    if args.store.is_none() && args.discover.is_given() {
        let (sources, first) = Sources::<FileSource>::start(None, args.discover.over()).await?;
        let (control, missing) = (Control::Discovery, Missing::Refused);
        return follow(&args, Startup { sources, first, missing, control, listener }, stop).await;
    }
    let etcd = args.store == Some(StoreKind::Etcd);
    // The database may be unreachable for long.
    let Registered { store, source, registration } = tokio::select! {
        registered = super::store::register(&args.node, args.rx.into(), etcd.then_some(&args.etcd)) => registered?,
        () = &mut stop => return Ok(()),
    };
    let kind = if etcd { "etcd" } else { "embedded" };
    let control = Control::Store { kind, store, follower: source.follower() };
    let (sources, first) = tokio::select! {
        started = Sources::start(Some(source), args.discover.over()) => started?,
        () = &mut stop => return Ok(()),
    };
    // After a reboot the containers do not exist yet.
    follow(&args, Startup { sources, first, missing: Missing::Tolerated, control, listener }, stop).await?;
    // Not withdrawn: other hosts keep this host's endpoints until the lease ends, for a daemon that restarts sooner.
    drop(registration);
    Ok(())
}

async fn follow(args: &RunArgs, startup: Startup<impl Source>, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let Startup { mut sources, first, missing, control, listener } = startup;
    let options = Options {
        pin_root: args.socket.pins.pin_root.clone(),
        flavour: None,
        missing,
        rx: args.rx.into(),
        deadline: (args.deadline > 0).then(|| Duration::from_secs(args.deadline)),
    };
    let mut daemon = Daemon::start(&options, first).await.map_err(|error| match error {
        // Missing capabilities are no usage error.
        error @ DaemonError::Preflight(PreflightError::Privileges(_)) => error.into(),
        DaemonError::Preflight(error) => anyhow::Error::new(UsageError(error.to_string())),
        other => other.into(),
    })?;
    daemon.record_socket(listener.path())?;
    #[cfg(feature = "log")]
    tokio::spawn(follow_log(aya_log::EbpfLogger::init(daemon.datapath_mut().bpf_mut())?));
    let about = match daemon.view() {
        Some(view) => About { node: view.host().name.clone(), address: Some(view.host().address) },
        None => About { node: hostname()?, address: None },
    };
    let events = EventLog::start(&options.pin_root)?;
    let answers = Answers::new(about.clone(), control, (daemon.state(), daemon.auditor()), events);
    let server = Server::start(listener, Arc::new(answers)).context("the socket cannot listen")?;
    // After the socket: a client that waits for the daemon uses it next.
    daemon.mark_ready()?;
    report_ready(&daemon, &options, &about, args);
    let stop = async {
        stop.await;
        // Requests in progress need the daemon.
        server.close().await;
    };
    daemon.run(&mut sources, stop).await?;
    info!("the daemon stops; the data path stays until `overlay down`");
    Ok(())
}

/// Reports that the data path is ready.
fn report_ready(daemon: &Daemon, options: &Options, about: &About, args: &RunArgs) {
    let address = about.address.or(daemon.networks().served);
    let networks = daemon.view().map_or(0, |view| view.networks().len());
    let external = daemon.networks().accelerated().count();
    if args.json {
        let printed = output::json(&json!({
            "ready": true,
            "daemon": std::process::id(),
            "pin_root": options.pin_root,
            "host": about.node,
            "address": address,
            "networks": networks,
            "external": external,
        }));
        // The data path does not depend on a reader.
        if let Err(error) = printed {
            warn!("{error}");
        }
    }
    let address = address.map(tracing::field::display);
    info!(host = %about.node, address, networks, external, pins = %options.pin_root.display(), "ready");
}

/// Forwards the programs' log, which has a line for every packet.
#[cfg(feature = "log")]
async fn follow_log<T: log::Log + Send>(logger: aya_log::EbpfLogger<T>) -> std::io::Result<()> {
    // SAFETY: the logger owns its ring buffer's descriptor, and returns the same one until it is dropped.
    let mut logger = unsafe { tokio::io::unix::AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) }
        .map_err(std::io::Error::from)?;
    loop {
        let mut ready = logger.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
