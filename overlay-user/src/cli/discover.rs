//! What `overlay run` is told about networks that others made.

use std::path::PathBuf;

use clap::{
    Args, ValueEnum,
    builder::{PathBufValueParser, TypedValueParser as _},
};

use crate::{
    model::mirror::{Settings, has_docker_client},
    sources::discover::Override,
};

#[derive(Args, Clone, Debug)]
pub(super) struct DiscoverArgs {
    /// Accelerate VXLAN networks that others made, too: `auto` finds all of this host, Docker Swarm's among them. The
    /// same as the table `mirror` in the configuration, which may say more.
    #[arg(long, value_name = "auto")]
    mirror: Option<Mode>,
    /// Where Docker has the network namespaces of its networks.
    #[arg(long, value_name = "DIR")]
    netns_dir: Option<PathBuf>,
    /// Docker's socket, which is asked for names of networks and whether they are encrypted. Nothing is changed there.
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(docker_socket))]
    docker_socket: Option<PathBuf>,
}

fn docker_socket(path: PathBuf) -> Result<PathBuf, &'static str> {
    if has_docker_client() {
        Ok(path)
    } else {
        Err(
            "this build of overlay has no Docker client; leave the option out, or use a build with the Cargo feature `docker`",
        )
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Auto,
}

impl DiscoverArgs {
    /// Whether networks that others made are asked for.
    pub(super) fn is_given(&self) -> bool {
        self.mirror.is_some()
    }

    /// What goes over a configuration.
    pub(super) fn over(&self) -> Override {
        Override {
            discover: self.mirror.map(|Mode::Auto| Settings::default()),
            netns_dir: self.netns_dir.clone(),
            docker: self.docker_socket.clone(),
        }
    }
}
