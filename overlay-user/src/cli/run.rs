//! `overlay run`.

use std::path::PathBuf;

use clap::Args;
use overlay_user::{
    control::{Source, file::FileSource},
    daemon::{Daemon, DaemonError, Options, PreflightError},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Pins, Wrong};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// The cluster's configuration, a TOML file; it is watched.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Log in JSON, one document a line.
    #[arg(long)]
    pub(super) json: bool,
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
    let mut source = FileSource::new(args.config);
    let cluster = source.next().await.map_err(|error| Wrong(error.to_string()))?;
    let options = Options { pin_root: args.pins.pin_root, flavour: None };
    let mut daemon = Daemon::start(&options, cluster).await.map_err(|error| match error {
        DaemonError::Preflight(error) if !matches!(error, PreflightError::Privileges(_)) => {
            anyhow::Error::new(Wrong(error.to_string()))
        }
        other => other.into(),
    })?;
    #[cfg(feature = "log")]
    let _logger = aya_log::EbpfLogger::init(daemon.datapath_mut().bpf_mut())?;
    let view = daemon.view();
    info!(
        host = %view.host.name, address = %view.host.address, networks = view.networks.len(),
        pins = %options.pin_root.display(), "ready"
    );
    daemon.run(&mut source, stop).await?;
    info!("the daemon ends; the data path stays until `overlay down`");
    Ok(())
}
