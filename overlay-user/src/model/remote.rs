//! Endpoints on other hosts.

use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::Endpoint;

/// An endpoint on another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// Unique in its network.
    pub ip: Ipv4Addr,
    /// Unique in its network.
    pub mac: MacAddr,
    /// Address of its [`super::Host`].
    pub host: VtepAddr,
}

impl From<&Endpoint> for RemoteEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self { ip: endpoint.ip, mac: endpoint.mac, host: endpoint.host }
    }
}

/// A change of one remote endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteChange {
    /// VNI of its network.
    pub vni: Vni,
    /// Name, unique in the network.
    pub name: String,
    /// New state; `None`: removed.
    pub endpoint: Option<RemoteEndpoint>,
}

/// Remote endpoints of one network, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteEndpoints {
    by_name: BTreeMap<Box<str>, RemoteEndpoint>,
    /// Number of endpoints of each host.
    hosts: BTreeMap<VtepAddr, usize>,
}

impl RemoteEndpoints {
    /// Inserts an endpoint, and returns the previous one of this name.
    pub fn insert(&mut self, name: &str, endpoint: RemoteEndpoint) -> Option<RemoteEndpoint> {
        let old = self.remove(name);
        *self.hosts.entry(endpoint.host).or_default() += 1;
        self.by_name.insert(name.into(), endpoint);
        old
    }

    /// Removes the endpoint of this name.
    pub fn remove(&mut self, name: &str) -> Option<RemoteEndpoint> {
        let old = self.by_name.remove(name)?;
        if let Some(count) = self.hosts.get_mut(&old.host) {
            *count -= 1;
            if *count == 0 {
                self.hosts.remove(&old.host);
            }
        }
        Some(old)
    }

    /// The endpoint of this name.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RemoteEndpoint> {
        self.by_name.get(name)
    }

    /// All endpoints, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &RemoteEndpoint> {
        self.by_name.values()
    }

    /// Number of endpoints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Addresses of the hosts with endpoints, in order.
    pub fn hosts(&self) -> impl Iterator<Item = VtepAddr> {
        self.hosts.keys().copied()
    }

    /// Whether this host has endpoints.
    #[must_use]
    pub fn has_host(&self, address: VtepAddr) -> bool {
        self.hosts.contains_key(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_listed_while_it_has_an_endpoint() {
        let endpoint = |ip: u8, host: u8| RemoteEndpoint {
            ip: [10, 0, 0, ip].into(),
            mac: MacAddr::default(),
            host: [192, 168, 1, host].into(),
        };
        let hosts = |remote: &RemoteEndpoints| remote.hosts().map(|host| host.octets()[3]).collect::<Vec<_>>();
        let mut remote = RemoteEndpoints::default();
        assert_eq!(remote.insert("a", endpoint(2, 10)), None);
        assert_eq!(remote.insert("b", endpoint(3, 10)), None);
        assert_eq!(remote.insert("a", endpoint(2, 11)), Some(endpoint(2, 10)));
        assert_eq!((hosts(&remote), remote.len()), (vec![10, 11], 2));
        assert_eq!((remote.remove("b"), remote.remove("b")), (Some(endpoint(3, 10)), None));
        assert_eq!(hosts(&remote), [11]);
        assert_eq!(remote.insert("a", endpoint(2, 11)), Some(endpoint(2, 11)));
        assert!(remote.has_host([192, 168, 1, 11].into()) && !remote.has_host([192, 168, 1, 10].into()));
    }
}
