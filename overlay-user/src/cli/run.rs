//! `overlay run`.

use std::path::PathBuf;

use clap::Args;
use overlay_user::{
    control::{Source, mirror::Mirror},
    daemon::{Daemon, DaemonError, Options, PreflightError},
    model::Rx,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{
    Pins, Wrong,
    mirror::{Configuration, MirrorArgs},
    output,
};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// The cluster's configuration, a TOML file; it is watched.
    #[arg(long, value_name = "FILE", required_unless_present = "mirror")]
    config: Option<PathBuf>,
    #[command(flatten)]
    mirror: MirrorArgs,
    /// Print one JSON document when the data path is ready.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pins: Pins,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut source = Configuration::new(args.config, args.mirror);
    let cluster = source.next().await.map_err(|error| Wrong(error.to_string()))?;
    let options = Options { pin_root: args.pins.pin_root, flavour: None, rx: Rx::default() };
    let mirror = Mirror::start(cluster.mirror.clone()).await?;
    let found = mirror.updates().borrow().clone();
    let mut daemon = Daemon::start(&options, Some(cluster), found).await.map_err(|error| match error {
        // Nothing is wrong with what was asked for.
        error @ DaemonError::Preflight(PreflightError::Privileges(_)) => error.into(),
        DaemonError::Preflight(error) => anyhow::Error::new(Wrong(error.to_string())),
        other => other.into(),
    })?;
    #[cfg(feature = "log")]
    tokio::spawn(follow_log(aya_log::EbpfLogger::init(daemon.datapath_mut().bpf_mut())?));
    tell(&daemon, &options, args.json)?;
    let mut settings = daemon.mirror_settings();
    let configure = async {
        while settings.changed().await.is_ok() {
            mirror.configure(settings.borrow_and_update().clone());
        }
    };
    tokio::select! {
        result = daemon.run(&mut source, mirror.updates(), stop) => result?,
        // The daemon holds the other end.
        () = configure => {}
    }
    info!("the daemon ends; the data path stays until `overlay down`");
    Ok(())
}

/// Says that the data path is ready.
fn tell(daemon: &Daemon, options: &Options, json: bool) -> anyhow::Result<()> {
    let (host, foreign) = (daemon.view(), daemon.mirrored());
    let address = host.map(|view| view.host.address).or(foreign.address);
    let networks = host.map_or(0, |view| view.networks.len());
    let accelerated = foreign.networks.values().filter(|network| network.refused.is_none()).count();
    if json {
        output::json(&json!({
            "ready": true,
            "daemon": std::process::id(),
            "pin_root": options.pin_root,
            "host": host.map(|view| &view.host.name),
            "address": address,
            "networks": networks,
            "mirrored": accelerated,
        }))?;
    }
    info!(
        host = host.map(|view| view.host.name.as_str()),
        address = address.map(tracing::field::display),
        networks,
        mirrored = accelerated,
        pins = %options.pin_root.display(),
        "ready"
    );
    Ok(())
}

/// Passes on what the programs log, for every packet.
#[cfg(feature = "log")]
async fn follow_log<T: log::Log + Send>(logger: aya_log::EbpfLogger<T>) -> std::io::Result<()> {
    // SAFETY: the logger owns its ring buffer's descriptor, and answers with the same one as long as it lives.
    let mut logger = unsafe { tokio::io::unix::AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) }
        .map_err(std::io::Error::from)?;
    loop {
        let mut ready = logger.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}
