//! How `overlay run` comes to its store, and this host into it.

use std::{
    env,
    fs::{self, DirBuilder},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use overlay_common::VtepAddr;

use super::UsageError;
use crate::{
    kernel::Host,
    model::Rx,
    sources::store::StoreSource,
    store::{EtcdOptions, NodeRequest, Registration, Store, StoreError},
};

/// This host, in a store.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    /// Address of this host's underlay device. Default with the embedded store: the address that the default route uses,
    /// or the only one.
    #[arg(long, value_name = "ADDRESS")]
    node: Option<VtepAddr>,
    /// This host's name in the cluster. Default: the hostname.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The directory of the embedded store.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/overlay")]
    data_dir: PathBuf,
    /// Seconds that other hosts keep this one's endpoints without a sign of life.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3600))]
    lease: u32,
}

/// How etcd is reached.
#[derive(Args, Debug)]
pub(super) struct EtcdArgs {
    /// etcd's members, like https://10.77.0.1:2379; several with commas between.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    etcd: Vec<String>,
    /// PEM file of the authority that signed etcd's certificates.
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// PEM file of this host's certificate for etcd.
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// PEM file of the key to --etcd-cert.
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// User name for etcd. The password is in the first line of --etcd-password-file, or in the environment variable
    /// OVERLAY_ETCD_PASSWORD.
    #[arg(long, value_name = "USER")]
    etcd_user: Option<String>,
    /// A file with the password of --etcd-user in its first line.
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
}

impl EtcdArgs {
    /// Whether any of it is on the command line.
    pub(super) fn is_given(&self) -> bool {
        let files = [&self.etcd_ca, &self.etcd_cert, &self.etcd_key, &self.etcd_password_file];
        !self.etcd.is_empty() || self.etcd_user.is_some() || files.iter().any(|file| file.is_some())
    }

    fn options(&self) -> anyhow::Result<EtcdOptions> {
        if self.etcd.is_empty() {
            let message =
                "--store etcd needs --etcd with the URLs of etcd's members, like --etcd https://10.77.0.1:2379";
            return Err(UsageError(message.into()).into());
        }
        let client = self.etcd_cert.clone().zip(self.etcd_key.clone());
        Ok(EtcdOptions { endpoints: self.etcd.clone(), user: self.user()?, ca: self.etcd_ca.clone(), client })
    }

    fn user(&self) -> anyhow::Result<Option<(String, String)>> {
        let Some(user) = &self.etcd_user else { return Ok(None) };
        let password = match &self.etcd_password_file {
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    UsageError(format!(
                        "--etcd-password-file {}: cannot be read ({error}); correct the path",
                        path.display()
                    ))
                })?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None => env::var("OVERLAY_ETCD_PASSWORD").map_err(|_| {
                UsageError(format!(
                    "--etcd-user {user}: there is no password; give --etcd-password-file, or set OVERLAY_ETCD_PASSWORD"
                ))
            })?,
        };
        Ok(Some((user.clone(), password)))
    }
}

/// This host in its store.
pub(super) struct Registered {
    pub(super) store: Store,
    pub(super) source: StoreSource,
    /// Kept alive for as long as it lives.
    pub(super) registration: Registration,
}

/// Opens the store (`None`: the embedded one) and registers this host.
pub(super) async fn register(node: &NodeArgs, rx: Rx, etcd: Option<&EtcdArgs>) -> anyhow::Result<Registered> {
    let address = address(node, etcd).await?;
    let name = match &node.node_name {
        Some(name) => name.clone(),
        None => hostname()?,
    };
    let store = match etcd {
        Some(etcd) => Store::etcd(&etcd.options()?).await.map_err(wrong)?,
        None => {
            let directory = &node.data_dir;
            DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(|| {
                format!("--data-dir {}: it cannot be made; give another directory", directory.display())
            })?;
            Store::embedded(&directory.join("overlay.redb")).await.map_err(wrong)?
        }
    };
    let ttl = Duration::from_secs(node.lease.into());
    let request = NodeRequest { ttl, rx, ..NodeRequest::new(name.as_str(), address) };
    let registration = store.register_node(request).await.map_err(wrong)?;
    let source = StoreSource::with_hold(store.clone(), name, ttl);
    Ok(Registered { store, source, registration })
}

/// What the command line has to change is the command line's fault.
fn wrong(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Rule(_)
        | StoreError::NodeAddress { .. }
        | StoreError::NodeInUse { .. }
        | StoreError::Options { .. } => UsageError(error.to_string()).into(),
        other => other.into(),
    }
}

async fn address(node: &NodeArgs, etcd: Option<&EtcdArgs>) -> anyhow::Result<VtepAddr> {
    let host = Host::open()?.snapshot();
    if let Some(address) = node.node {
        return match host.link_by_address(address).await? {
            Some(_) => Ok(address),
            None => Err(UsageError(format!(
                "--node {address}: no interface of this host has this address; give the underlay device's, see `ip addr`"
            ))
            .into()),
        };
    }
    if etcd.is_some() {
        let message =
            "--store etcd needs --node with the address of this host's underlay device, like --node 192.168.1.9";
        return Err(UsageError(message.into()).into());
    }
    if let Some(address) = by_default_route() {
        return Ok(address);
    }
    let addresses = host.underlay_addresses().await?;
    match addresses.as_slice() {
        [only] => Ok(*only),
        [] => {
            Err(UsageError("this host has no address that others could send to; give its underlay device one".into())
                .into())
        }
        several => {
            let list: Vec<_> = several.iter().map(ToString::to_string).collect();
            let list = list.join(", ");
            Err(UsageError(format!(
                "this host has several addresses ({list}); say with --node which is the underlay's"
            ))
            .into())
        }
    }
}

/// The source address of packets that take the default route. Nothing is sent.
fn by_default_route() -> Option<VtepAddr> {
    /// TEST-NET-1 (RFC 5737): nobody has a more specific route there.
    const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(VtepAddr::new(*address.ip())),
        SocketAddr::V6(_) => None,
    }
}

pub(super) fn hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("the hostname cannot be read; give --node-name")?;
    // `Name` rules are the model's; a domain is not part of the name.
    Ok(name.to_string_lossy().into_owned())
}
