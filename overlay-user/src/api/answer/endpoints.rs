//! Endpoints: created and removed all-or-nothing.

use std::time::Duration;

use ipnet::Ipv4Net;
use overlay_common::MacAddr;
use tokio::time::timeout;
use tracing::warn;

use super::{Answers, networks};
use crate::{
    api::types::{EndpointAdd, EndpointList, EndpointReport, Failure, Removed},
    daemon::{self, DaemonState, EndpointKey, Served},
    kernel::{self, Host},
    model::{Attachment, Endpoint, Finding, Findings, endpoint_label},
    store::{EndpointRequest, Snapshot, StoreError, StoredEndpoint},
};

/// Timeout for this host to create or remove the interface of an endpoint.
const INTERFACE_TIMEOUT: Duration = Duration::from_secs(20);

impl Answers {
    /// Registers an endpoint and waits until this host serves it. On failure the registration is removed.
    pub(super) async fn add_endpoint(&self, request: EndpointAdd) -> Result<EndpointReport, Failure> {
        let (store, _) = self.store()?;
        let EndpointAdd { network, name, netns, ip, mac } = request;
        let mac = match mac.map(|text| text.parse::<MacAddr>().map_err(|_| text)).transpose() {
            Ok(mac) => mac,
            Err(text) => {
                let problem = format!("mac {text:?} is not a MAC address");
                let remedy = "write one like 02:42:0a:00:01:02";
                return Err(Failure::refused(Finding::new(endpoint_label(&network, &name), problem, remedy)));
            }
        };
        // The model refuses relative paths.
        if netns.is_absolute() {
            daemon::check_netns(&format!("{network}/{name}"), &netns)
                .map_err(|error| Failure::refused(Findings::from_error(&error)))?;
        }
        let _lock = self.endpoint_lock.lock().await;
        let attachment = Attachment::Netns(netns);
        let request = EndpointRequest { network: network.clone(), name, ip, mac, attachment, interface: None };
        let endpoint = store.add_endpoint(&self.about.node, request).await?;
        if let Err(failure) = self.wait_until_served(&endpoint_label(&network, &endpoint.name), &endpoint).await {
            return Err(self.roll_back(&network, &endpoint, failure).await);
        }
        let snapshot = self.snapshot()?;
        let spec = networks::find(&snapshot, &network).ok().cloned();
        let warnings = daemon::rule_findings(spec).await;
        let report = self.endpoint(&network, &endpoint.name).await;
        match report {
            Ok(report) => Ok(EndpointReport { warnings, ..report }),
            // Another client has removed the endpoint meanwhile.
            Err(failure) => Err(Failure::failed(failure.findings)),
        }
    }

    /// Waits until a path of this host serves the endpoint, or this host has refused it.
    async fn wait_until_served(&self, object: &str, endpoint: &Endpoint) -> Result<(), Failure> {
        self.wait_until_followed(object, "is in the store", "endpoint ls").await?;
        let key = (endpoint.vni, endpoint.name.clone());
        let is_served = |state: &DaemonState| {
            state
                .local
                .get(&key)
                .is_some_and(|local| local.served != Served::No && (local.ip, local.mac) == (endpoint.ip, endpoint.mac))
        };
        let mut state = self.state.clone();
        match timeout(INTERFACE_TIMEOUT, state.wait_for(|state| is_served(state) || is_refused(state, &key))).await {
            Ok(Ok(state)) if is_served(&state) => Ok(()),
            Ok(Ok(state)) => {
                let reason = state.refused.iter().flat_map(|refused| refused.reason.clone());
                Err(Failure::refused(reason.collect::<Findings>()))
            }
            Ok(Err(_)) => Err(Failure::failed(Finding::new("daemon", "is stopping", "start it again, and try again"))),
            Err(_) => {
                let error = self.state.borrow().findings.first().map(ToString::to_string);
                let error = error.unwrap_or_else(|| "unknown error".to_owned());
                let problem = format!("was not created within {INTERFACE_TIMEOUT:?} ({error})");
                Err(Failure::failed(Finding::new(object, problem, "see `overlay status`")))
            }
        }
    }

    /// Unregisters an endpoint that could not be created. Returns the failure for the caller.
    async fn roll_back(&self, network: &str, endpoint: &Endpoint, failure: Failure) -> Failure {
        let Ok((store, _)) = self.store() else { return failure };
        match store.remove_endpoint(network, &endpoint.name).await {
            Ok(stored) => {
                if let Err(error) = self.wait_until_removed(&stored).await {
                    warn!("{error}");
                }
                failure
            }
            Err(StoreError::NoSuchEndpoint { .. } | StoreError::NoSuchNetwork { .. }) => failure,
            Err(error) => {
                let problem = format!("is still in the store ({error})");
                let remedy = format!("remove it with `overlay endpoint rm {network} {}`", endpoint.name);
                let left = Finding::new(endpoint_label(network, &endpoint.name), problem, remedy);
                Failure::failed(failure.findings.into_iter().chain([left]).collect::<Findings>())
            }
        }
    }

    /// Unregisters an endpoint, and waits until its interface is removed if it is on this host.
    pub(super) async fn remove_endpoint(&self, network: &str, name: &str) -> Result<Removed, Failure> {
        let (store, _) = self.store()?;
        let stored = store.remove_endpoint(network, name).await?;
        self.wait_until_followed(&endpoint_label(network, name), "is removed", "endpoint ls").await?;
        if stored.node == self.about.node {
            self.wait_until_removed(&stored).await?;
        }
        Ok(Removed { removed: format!("{network}/{name}"), endpoints: 1 })
    }

    /// Waits until this host has removed an endpoint.
    pub(super) async fn wait_until_removed(&self, stored: &StoredEndpoint) -> Result<(), Failure> {
        let key = (stored.endpoint.vni, stored.endpoint.name.clone());
        let mut state = self.state.clone();
        let removed = timeout(
            INTERFACE_TIMEOUT,
            state.wait_for(|state| !state.local.contains_key(&key) && !is_refused(state, &key)),
        );
        match removed.await {
            Ok(_) => Ok(()),
            Err(_) => {
                let problem =
                    format!("is unregistered, but its interface was not removed within {INTERFACE_TIMEOUT:?}");
                let object = endpoint_label(&stored.network, &stored.endpoint.name);
                Err(Failure::failed(Finding::new(object, problem, "see `overlay status`")))
            }
        }
    }

    pub(super) fn endpoints(&self, network: Option<&str>) -> Result<EndpointList, Failure> {
        let snapshot = self.snapshot()?;
        if let Some(name) = network {
            networks::find(&snapshot, name)?;
        }
        let wanted = snapshot.endpoints.iter().filter(|stored| network.is_none_or(|network| stored.network == network));
        Ok(EndpointList {
            endpoints: wanted.map(|stored| self.endpoint_report(&snapshot, stored)).collect(),
            store: self.store_report().unwrap_or_default(),
        })
    }

    pub(super) async fn endpoint(&self, network: &str, name: &str) -> Result<EndpointReport, Failure> {
        let snapshot = self.snapshot()?;
        networks::find(&snapshot, network)?;
        let mut report = self.endpoint_report(&snapshot, find(&snapshot, network, name)?);
        if let Some(device) = report.device.as_deref().filter(|_| report.ready || report.kernel_path) {
            // Optional: the report is complete without the name.
            report.interface = match Host::open() {
                Ok(host) => host.container_interface(device).await.ok().flatten(),
                Err(_) => None,
            };
        }
        Ok(report)
    }

    pub(super) fn endpoint_report(&self, snapshot: &Snapshot, stored: &StoredEndpoint) -> EndpointReport {
        let Endpoint { name, vni, ip, mac, host, attachment } = &stored.endpoint;
        let prefix = networks::find(snapshot, &stored.network).map_or(32, |network| network.subnet.prefix_len());
        let here = stored.node == self.about.node;
        let local = self.state.borrow().local.get(&(*vni, name.clone())).map(|local| local.served);
        EndpointReport {
            network: stored.network.clone(),
            name: name.clone(),
            vni: vni.get(),
            ip: Ipv4Net::new(*ip, prefix).unwrap_or_else(|_| (*ip).into()),
            mac: mac.to_string(),
            node: stored.node.clone(),
            address: *host,
            netns: match attachment {
                Attachment::Netns(path) if here => Some(path.clone()),
                _ => None,
            },
            device: here.then(|| kernel::veth_name(&stored.network, name)),
            interface: None,
            ready: if here { local == Some(Served::FastPath) } else { stored.live },
            kernel_path: here && local == Some(Served::KernelPath),
            warnings: Vec::new(),
        }
    }
}

fn is_refused(state: &DaemonState, key: &EndpointKey) -> bool {
    state.refused.as_ref().is_some_and(|refused| refused.local.contains(key))
}

fn find<'a>(snapshot: &'a Snapshot, network: &str, name: &str) -> Result<&'a StoredEndpoint, StoreError> {
    let wanted = |stored: &&StoredEndpoint| stored.network == network && stored.endpoint.name == name;
    let missing = || StoreError::NoSuchEndpoint { network: network.to_owned(), name: name.to_owned() };
    snapshot.endpoints.iter().find(wanted).ok_or_else(missing)
}
