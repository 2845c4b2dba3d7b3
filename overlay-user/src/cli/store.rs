//! Options of `overlay run` for a store, and the registration of this host in it.

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

/// This host in a store.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    /// Underlay address of this host, required with --store etcd. Default with the embedded store: the source address
    /// of the default route, or the only address.
    #[arg(long, value_name = "ADDRESS")]
    node: Option<VtepAddr>,
    /// Name of this host in the cluster. Default: the hostname.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Directory of the embedded store.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/overlay")]
    data_dir: PathBuf,
    /// Lifetime of this host's registration in seconds: without a renewal, other hosts remove its endpoints after this
    /// time.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3600))]
    lease: u32,
}

/// Connection to etcd.
#[derive(Args, Debug)]
pub(super) struct EtcdArgs {
    /// URLs of the etcd members, like https://10.77.0.1:2379, separated by commas.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    etcd: Vec<String>,
    /// PEM file with the CA certificate of etcd.
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// PEM file with the client certificate of this host.
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// PEM file with the private key of --etcd-cert.
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// User name for etcd. The password is read from --etcd-password-file or from OVERLAY_ETCD_PASSWORD.
    #[arg(long, value_name = "USER")]
    etcd_user: Option<String>,
    /// File with the password of --etcd-user in its first line.
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
}

impl EtcdArgs {
    /// Whether any of these options is given.
    pub(super) fn is_given(&self) -> bool {
        let files = [&self.etcd_ca, &self.etcd_cert, &self.etcd_key, &self.etcd_password_file];
        !self.etcd.is_empty() || self.etcd_user.is_some() || files.iter().any(|file| file.is_some())
    }

    fn options(&self) -> anyhow::Result<EtcdOptions> {
        if self.etcd.is_empty() {
            let message =
                "--store etcd needs --etcd with the URLs of the etcd members, like --etcd https://10.77.0.1:2379";
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
                    "--etcd-user {user}: no password is given; use --etcd-password-file, or set OVERLAY_ETCD_PASSWORD"
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
    /// Renewed until it is dropped.
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
                format!("--data-dir {}: the directory cannot be created; use another one", directory.display())
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

/// Turns errors whose remedy is another command line into usage errors.
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
                "--node {address}: no interface of this host has this address; use the underlay device's, see `ip addr`"
            ))
            .into()),
        };
    }
    if etcd.is_some() {
        let message = "--store etcd needs --node with the underlay address of this host, like --node 192.168.1.9";
        return Err(UsageError(message.into()).into());
    }
    if let Some(address) = default_route_source() {
        return Ok(address);
    }
    let addresses = host.underlay_addresses().await?;
    match addresses.as_slice() {
        [only] => Ok(*only),
        [] => Err(UsageError("this host has no underlay address; add one to its underlay device".into()).into()),
        several => {
            let list: Vec<_> = several.iter().map(ToString::to_string).collect();
            let list = list.join(", ");
            Err(UsageError(format!("this host has several addresses ({list}); select the underlay's with --node"))
                .into())
        }
    }
}

/// The source address of the default route. No packet is sent.
fn default_route_source() -> Option<VtepAddr> {
    /// TEST-NET-1 (RFC 5737), for which no more specific route exists.
    const DESTINATION: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(DESTINATION).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(VtepAddr::new(*address.ip())),
        SocketAddr::V6(_) => None,
    }
}

pub(super) fn hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("the hostname cannot be read; give --node-name")?;
    // The model checks the rules for names.
    Ok(name.to_string_lossy().into_owned())
}
