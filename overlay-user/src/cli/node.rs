//! `overlay node`.

use clap::Subcommand;

use super::{EXIT_CODES, output, remote::Remote};
use crate::api::types::{NodeList, Removed, Request};

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes, and whether their registrations are valid.
    #[command(after_help = EXIT_CODES)]
    Ls(Remote),
    /// Remove a node that does not come back, and release its name and address.
    #[command(after_help = EXIT_CODES)]
    Rm {
        /// The node's name.
        name: String,
        /// Remove its endpoints too, and even a node that lives. Its daemon, if it runs, registers it again.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) async fn node(command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::Ls(remote) => remote.show(&Request::NodeList, |list: NodeList| show(&list)).await,
        NodeCommand::Rm { name, force, remote } => {
            let gone = |gone: Removed| format!("{}: {} endpoints went with it\n", gone.removed, gone.endpoints);
            remote.show(&Request::NodeRemove { name, force }, gone).await
        }
    }
}

fn show(list: &NodeList) -> String {
    let rows = list.nodes.iter().map(|node| {
        let name = if node.local { format!("{} (this one)", node.name) } else { node.name.clone() };
        let state = if node.alive { "alive" } else { "gone" };
        [name, node.address.to_string(), node.endpoints.to_string(), state.to_owned()]
    });
    output::table(["NODE", "VTEP", ">ENDPOINTS", "STATE"], rows) + &output::age(&list.store)
}
