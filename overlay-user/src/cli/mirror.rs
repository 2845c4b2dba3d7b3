//! What `overlay run` is told about networks that others made.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use overlay_user::{
    control::{Change, News, Source, Update},
    model::{Cluster, mirror::Settings},
};

#[derive(Args, Clone, Debug)]
pub(super) struct MirrorArgs {
    /// Accelerate VXLAN networks that others made, too: `auto` finds all of this host, Docker Swarm's among them. The
    /// same as the table `mirror` in the configuration, which may say more.
    #[arg(long, value_name = "auto")]
    mirror: Option<Mode>,
    /// Where Docker has the network namespaces of its networks.
    #[arg(long, value_name = "DIR")]
    netns_dir: Option<PathBuf>,
    /// Docker's socket, which is asked for names of networks and whether they are encrypted. Nothing is changed there.
    #[arg(long, value_name = "FILE")]
    docker_socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Auto,
}

impl MirrorArgs {
    /// Whether networks that others made are asked for.
    pub(super) fn is_given(&self) -> bool {
        self.mirror.is_some()
    }

    /// The file's settings with those of the command line over them; `None`: nothing is mirrored.
    fn settings(&self, from_file: Option<Settings>) -> Option<Settings> {
        let mut settings = from_file.or_else(|| self.mirror.map(|Mode::Auto| Settings::default()))?;
        if let Some(directory) = &self.netns_dir {
            settings.netns_dir.clone_from(directory);
        }
        if let Some(socket) = &self.docker_socket {
            settings.docker = Some(socket.clone());
        }
        Some(settings)
    }

    fn over(&self, cluster: Cluster) -> Cluster {
        let settings = self.settings(cluster.mirror.clone());
        cluster.with_mirror(settings)
    }
}

/// A source, where there is one, with what the command line says of mirroring.
pub(super) struct Mirroring<S> {
    source: Option<S>,
    mirror: MirrorArgs,
    /// The empty cluster was handed out.
    said: bool,
}

impl<S: Source> Mirroring<S> {
    pub(super) fn new(source: Option<S>, mirror: MirrorArgs) -> Self {
        Self { source, mirror, said: false }
    }
}

impl<S: Source> Source for Mirroring<S> {
    async fn next(&mut self) -> Update {
        let cluster = match &mut self.source {
            Some(source) => source.next().await?,
            None if self.said => std::future::pending().await,
            None => Cluster::default(),
        };
        self.said = true;
        Ok(self.mirror.over(cluster))
    }

    async fn next_change(&mut self) -> Change {
        let Some(source) = &mut self.source else { return self.next().await.map(News::Cluster) };
        Ok(match source.next_change().await? {
            News::Cluster(cluster) => News::Cluster(self.mirror.over(cluster)),
            remote @ News::Remote(_) => remote,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(mirror: Option<Mode>, netns_dir: Option<&str>, docker_socket: Option<&str>) -> MirrorArgs {
        MirrorArgs { mirror, netns_dir: netns_dir.map(Into::into), docker_socket: docker_socket.map(Into::into) }
    }

    #[test]
    fn the_command_line_goes_over_the_file() {
        assert_eq!(args(None, Some("/n"), None).settings(None), None);
        assert_eq!(args(Some(Mode::Auto), None, None).settings(None), Some(Settings::default()));
        let file = Settings { docker: None, vxlan: Some(["vxlan0".into()].into()), ..Settings::default() };
        let expected = Settings { netns_dir: "/n".into(), docker: Some("/d".into()), ..file.clone() };
        assert_eq!(args(Some(Mode::Auto), Some("/n"), Some("/d")).settings(Some(file)), Some(expected));
    }
}
