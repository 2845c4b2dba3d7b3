//! Options of `overlay run` for external networks.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PathBufValueParser, TypedValueParser as _},
};

use crate::{
    model::discovery::{Settings, has_docker_client},
    sources::discover::Override,
};

#[derive(Args, Clone, Debug)]
pub(super) struct DiscoverArgs {
    /// Discover the external VXLAN networks of this host (made by Docker, flannel or by hand), and accelerate those that the
    /// programs support. The same as an empty table `[discover]` in the configuration file.
    #[arg(long)]
    discover: bool,
    /// Directory of Docker's network namespaces. Default: /var/run/docker/netns, or `netns_dir` in the configuration
    /// file.
    #[arg(long, value_name = "DIR")]
    netns_dir: Option<PathBuf>,
    /// Docker's API socket, from which the daemon reads the names of networks and containers and which networks are
    /// encrypted. Default: /var/run/docker.sock, or `docker` in the configuration file.
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(docker_socket))]
    docker_socket: Option<PathBuf>,
}

fn docker_socket(path: PathBuf) -> Result<PathBuf, &'static str> {
    if has_docker_client() {
        Ok(path)
    } else {
        Err("this build has no Docker client; leave the option out, or use a build with the Cargo feature `docker`")
    }
}

impl DiscoverArgs {
    /// Whether `--discover` is given.
    pub(super) fn is_given(&self) -> bool {
        self.discover
    }

    /// The settings that override a configuration file's.
    pub(super) fn over(&self) -> Override {
        Override {
            discover: self.discover.then(Settings::default),
            netns_dir: self.netns_dir.clone(),
            docker: self.docker_socket.clone(),
        }
    }
}
