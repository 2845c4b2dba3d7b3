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
  0  done
  1  it failed; the message says what and what mends it
  2  the command line or the configuration is wrong, or does not fit this host; nothing was changed
  3  nothing is loaded at the pin root, or no daemon runs

Environment:
  RUST_LOG  what is logged to standard error, for instance overlay_user=debug (default: info)";

/// Beside the one that computes.
const DAEMON_THREADS: usize = 2;

// Continued lines: clap wraps to the terminal's width.
const RUN_HELP: &str = "\
Run the daemon of this host in the foreground.

What networks and endpoints there are it takes from a configuration file (--config), from etcd (--store etcd), or from a \
database of this host alone (--store embedded, and when nothing else is given). With a store they are made with \
`overlay network create` and `overlay endpoint add`.

Loads the programs, makes what is to be on this host (bridges, VXLAN devices, veths), and keeps the \
kernel's tables and the maps true until SIGTERM or Ctrl-C.

The data path goes on without the daemon: only `overlay down` ends it. But while no daemon runs, nobody follows changes \
of routes, neighbours and the configuration.

A configuration file is watched. A bad one is refused as a whole and the running state stays.";

const RUN_EXAMPLE: &str = "\
A configuration, the same on all hosts:

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
  netns = \"gindemo1\"     # a name as `ip netns` has it; or port = \"<an existing host-side interface>\"

Everything that can stand in it is in docs/configuration.md.";

/// An eBPF/XDP fast path for VXLAN container networks.
///
/// TC and XDP programs on the NIC and on the containers' veths encapsulate, decapsulate and look up the VTEP in one hop.
/// Every packet that they cannot handle goes, untouched, the kernel's way.
#[derive(Debug, Parser)]
#[command(name = "overlay", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this host in the foreground.
    #[command(long_about = RUN_HELP, after_long_help = format!("{RUN_EXAMPLE}\n\n{EXIT_CODES}"))]
    Run(Box<run::RunArgs>),
    /// Check a configuration: its rules, and on one of its hosts also whether it fits there. Changes nothing.
    #[command(after_help = EXIT_CODES)]
    Check(check::CheckArgs),
    /// Show what is loaded: this host, whether the daemon runs, and its networks with what serves each.
    #[command(after_help = EXIT_CODES)]
    Status(status::StatusArgs),
    /// Show where each MAC address is: behind a port of this host, or behind which VTEP.
    #[command(after_help = EXIT_CODES)]
    Fdb(remote::Remote),
    /// Show the ports: who may send into which network, through which interface.
    #[command(after_help = EXIT_CODES)]
    Ports(remote::Remote),
    /// Show what the programs counted: packets and bytes by reason, by network and by VTEP.
    #[command(after_help = EXIT_CODES)]
    Counters(remote::Remote),
    /// Compare what should be with the kernel's tables, the maps and the programs that run, and list what differs.
    #[command(long_about = audit::HELP, after_help = audit::EXIT_CODES)]
    Audit(audit::AuditArgs),
    /// Show samples of the packets that were dropped or left to the kernel because of who sends them.
    #[command(after_help = EXIT_CODES)]
    Events(events::EventsArgs),
    /// Make, list and remove networks, through the running daemon's store.
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Give containers of this host interfaces in networks, through the running daemon's store.
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Show the nodes of the cluster, and remove those that do not come back.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// End the daemon and take back everything that it made, and nothing else: programs, maps, bridges, VXLAN devices, and
    /// the interfaces that it gave to containers. Interfaces that existed before stay.
    #[command(after_help = EXIT_CODES)]
    Down(Common),
}

/// What all subcommands about a loaded data path take.
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
    /// The directory of the BPF filesystem that holds this daemon's maps and links. Two daemons on one machine need two.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/overlay")]
    pin_root: PathBuf,
}

/// The command line or the configuration is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) if message.use_stderr() => {
            // The exit code says it, too.
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
        // What cannot be logged is not: to say so would need the same standard error.
        .log_internal_errors(false)
        .init();
    end(execute(cli))
}

/// Says what went wrong, and turns it into an exit code.
fn end(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.downcast_ref().is_some_and(output::OutputError::is_closed) {
        // The work is done. As a program that does not ignore the signal, which Rust does.
        // SAFETY: the default action is no handler.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        let _ = raise(Signal::SIGPIPE);
    }
    output::error(format_args!("{error:#}"));
    exit_code(&error)
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    if let Command::Run(args) = &cli.command {
        // Before the runtime's threads, which inherit what this one has.
        daemon::reduce_privileges(args.socket_group())?;
    }
    let mut builder = match &cli.command {
        // While the daemon computes, its registration has to be kept alive, and netlink's answers read.
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
