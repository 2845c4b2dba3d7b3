//! `overlay node`.

use clap::Subcommand;
use overlay_user::api::{NodeList, Request};

use super::{EXIT_CODES, network::alive, output, remote::Remote};

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes, and whether their registrations are valid.
    #[command(after_help = EXIT_CODES)]
    Ls(Remote),
}

pub(super) async fn node(command: NodeCommand) -> anyhow::Result<()> {
    let NodeCommand::Ls(remote) = command;
    let show = |list: NodeList| {
        let rows = list.nodes.iter().map(|node| {
            let name = if node.local { format!("{} (this one)", node.name) } else { node.name.clone() };
            [name, node.address.to_string(), node.endpoints.to_string(), alive(node.alive)]
        });
        output::table(["NODE", "VTEP", ">ENDPOINTS", "STATE"], rows);
        output::age(&list.store);
    };
    remote.show(&Request::NodeList, show).await
}
