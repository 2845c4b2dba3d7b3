//! `overlay node`.

use clap::Subcommand;

use super::{output, remote::Remote};
use crate::{
    api::types::{NodeList, Removed, Request},
    model::counted,
};

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes with the state of their registrations.
    Ls(Remote),
    /// Remove a failed node, and release its name and address.
    Rm {
        /// Name of the node.
        name: String,
        /// Remove its endpoints as well, and remove a node that is alive. A running daemon registers its node again.
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
            let removed = |report: Removed| match report.endpoints {
                0 => format!("{}\n", report.removed),
                count => format!("{} and {}\n", report.removed, counted(count, "endpoint")),
            };
            remote.show(&Request::NodeRemove { name, force }, removed).await
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
