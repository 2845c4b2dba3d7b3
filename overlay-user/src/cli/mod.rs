//! The command line: one file per subcommand, thin.

mod audit;
mod check;
mod counters;
mod discover;
mod down;
mod endpoint;
mod events;
mod fdb;
mod network;
mod node;
mod output;
mod ports;
mod remote;
mod run;
mod status;
mod store;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    api::CallError,
    apply::ledger::PinError,
    daemon::{self, DownError},
    observe::ObserveError,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  failure; the message names the problem and the remedy
  2  invalid command line or configuration; nothing is changed
  3  nothing is loaded at --pin-root, or no daemon is running

Environment:
  RUST_LOG  log filter, for example overlay_user=debug [default: info]";

const CHECK_EXIT_CODES: &str = "Exit codes: 0 valid; 2 invalid, or does not fit this host";
const STATUS_EXIT_CODES: &str =
    "Exit codes: 0 loaded, with or without a daemon; 2 no such network; 3 nothing is loaded at --pin-root";
const DOWN_EXIT_CODES: &str = "Exit codes: 0 removed; 1 incomplete; 3 nothing is loaded at --pin-root";

/// Worker threads of the daemon's runtime, besides the main thread.
const DAEMON_THREADS: usize = 2;

// Continued lines: clap wraps to the terminal's width.
const RUN_HELP: &str = "\
Run the daemon of this host in the foreground.

The daemon reads networks and endpoints from a configuration file (--config), from etcd (--store etcd), or from a \
database of this host alone (--store embedded, the default). With a store, `overlay network create` and \
`overlay endpoint add` create them. With --discover alone, the daemon only accelerates the external networks of this host.

The daemon loads the programs, creates the bridges, VXLAN devices and veths of this host, and reconciles the kernel's \
tables and the BPF maps until SIGTERM or Ctrl-C.

The data path stays in place when the daemon stops; `overlay down` removes it. While no daemon is running, changes of \
routes, neighbours and the configuration are not applied, and after --deadline packets fall back to the kernel path.

A configuration file is watched. An invalid file is rejected, and the running state is unchanged.";

const RUN_EXAMPLE: &str = "\
Example of a configuration file, the same on all hosts:

  [[hosts]]
  name = \"node01\"
  address = \"192.168.1.9\"

  [[hosts]]
  name = \"node02\"
  address = \"192.168.1.10\"

  [[networks]]
  name = \"my-overlay-network\"
  vni = 4097
  subnet = \"10.0.1.0/24\"

  [[endpoints]]
  network = \"my-overlay-network\"
  name = \"gindemo1\"
  ip = \"10.0.1.2\"
  host = \"node01\"
  netns = \"gindemo1\"     # a name as in `ip netns`; or port = \"<an existing host-side interface>\"

All keys are documented in docs/configuration.md.

Environment:
  RUST_LOG               log filter, for example overlay_user=debug [default: info]
  OVERLAY_ETCD_PASSWORD  password of --etcd-user";

/// An eBPF/XDP fast path for VXLAN container networks.
///
/// TC and XDP programs on the NIC and on the containers' veths look up the VTEP, encapsulate and decapsulate in one
/// step. Packets that they cannot handle are passed unmodified to the kernel's bridges and VXLAN devices.
#[derive(Debug, Parser)]
#[command(name = "overlay", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this host in the foreground.
    #[command(long_about = RUN_HELP, after_long_help = RUN_EXAMPLE)]
    Run(Box<run::RunArgs>),
    /// Validate a configuration file and, on one of its hosts, check that it fits that host. Changes nothing.
    #[command(after_help = CHECK_EXIT_CODES)]
    Check(check::CheckArgs),
    /// Show the data path of this host, the daemon, and the state of each network.
    #[command(after_help = STATUS_EXIT_CODES)]
    Status(status::StatusArgs),
    /// Show the forwarding database: the local port or the remote VTEP of each MAC address.
    Fdb(remote::Remote),
    /// Show the ports: the interfaces of local containers, with the network and the addresses of each.
    Ports(remote::Remote),
    /// Show packet and byte counters by reason, by network and by VTEP.
    Counters(remote::Remote),
    /// Compare the kernel's tables, the BPF maps and the attached programs with the desired state, and list
    /// differences.
    #[command(long_about = audit::HELP, after_help = audit::EXIT_CODES)]
    Audit(audit::AuditArgs),
    /// Show sampled events: packets that were dropped, or passed to the kernel because of a spoofed or unknown source.
    Events(events::EventsArgs),
    /// Create, list and remove managed networks in the daemon's store.
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Connect containers of this host to managed networks, list and remove endpoints in the daemon's store.
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// List the nodes of the cluster, and remove nodes that have failed.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Stop the daemon and remove everything that overlay created: programs, maps, bridges, VXLAN devices and container
    /// interfaces. Interfaces that existed before stay.
    #[command(after_help = DOWN_EXIT_CODES)]
    Down(Common),
}

/// Options of the subcommands that need the pin root.
#[derive(Args, Clone, Debug)]
struct Common {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pins: Pins,
}

#[derive(Args, Clone, Debug)]
struct Pins {
    /// Directory of the BPF filesystem with this daemon's maps and links. Each daemon on a machine needs its own.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/overlay")]
    pin_root: PathBuf,
}

/// The command line or the configuration is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// The command line, for the tests of the documentation.
#[cfg(feature = "testing")]
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) if message.use_stderr() => {
            // The exit code reports the error as well.
            let _ = message.print();
            return ExitCode::from(2);
        }
        Err(text) => return end(output::help(&text).map_err(Into::into)),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        // An error of the log would be written to the same standard error.
        .log_internal_errors(false)
        .init();
    end(execute(cli))
}

/// Prints the error, and returns its exit code.
fn end(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.downcast_ref().is_some_and(output::OutputError::is_closed) {
        // Rust ignores SIGPIPE; end as a program that does not.
        // SAFETY: the default action is no handler.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        let _ = raise(Signal::SIGPIPE);
    }
    output::error(output::message(&error));
    exit_code(&error)
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    if let Command::Run(args) = &cli.command {
        // Before the runtime's threads, which inherit the capabilities of this one.
        daemon::reduce_privileges(args.socket_group())?;
    }
    let mut builder = match &cli.command {
        // While the daemon computes, other threads renew its registration and read netlink's answers.
        Command::Run(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.worker_threads(DAEMON_THREADS).enable_all().build()?.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(*args).await,
            Command::Check(args) => check::check(&args).await,
            Command::Status(args) => status::status(&args).await,
            Command::Fdb(args) => fdb::fdb(&args).await,
            Command::Ports(args) => ports::ports(&args).await,
            Command::Counters(args) => counters::counters(&args).await,
            Command::Audit(args) => audit::audit(&args).await,
            Command::Events(args) => events::events(&args).await,
            Command::Network(command) => network::network(command).await,
            Command::Endpoint(command) => endpoint::endpoint(command).await,
            Command::Node(command) => node::node(command).await,
            Command::Down(args) => down::down(&args).await,
        }
    })
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let pin = error.downcast_ref::<PinError>().or_else(|| match error.downcast_ref::<DownError>() {
        Some(DownError::Pin(error)) => Some(error),
        _ => match error.downcast_ref::<ObserveError>() {
            Some(ObserveError::Pin(error)) => Some(error),
            _ => None,
        },
    });
    if error.is::<audit::Failed>() {
        ExitCode::from(2)
    } else if let Some(error) = error.downcast_ref::<CallError>() {
        ExitCode::from(remote::exit_code(error))
    } else if error.is::<UsageError>() {
        ExitCode::from(2)
    } else if matches!(pin, Some(PinError::Absent(_))) {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}
