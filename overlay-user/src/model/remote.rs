//! Endpoints on other hosts, as one host has to know them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_common::{MacAddr, Vni, VtepAddr};

use super::Endpoint;

/// What a host has to know of another host's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// Unique in its network.
    pub ip: Ipv4Addr,
    /// Unique in its network.
    pub mac: MacAddr,
    /// Address of the [`super::Host`] that it is on.
    pub host: VtepAddr,
}

impl From<&Endpoint> for RemoteEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self { ip: endpoint.ip, mac: endpoint.mac, host: endpoint.host }
    }
}

/// What became of one endpoint of another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteChange {
    /// Its network's VNI.
    pub vni: Vni,
    /// Its name, unique in the network.
    pub name: String,
    /// As it is now; `None`: it has gone.
    pub endpoint: Option<RemoteEndpoint>,
}

/// Endpoints of one network on other hosts, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteEndpoints {
    by_name: BTreeMap<Box<str>, RemoteEndpoint>,
    /// How many of them each host has.
    hosts: BTreeMap<VtepAddr, usize>,
}

impl RemoteEndpoints {
    /// Puts an endpoint in the place of the one of this name, which is returned.
    pub fn insert(&mut self, name: &str, endpoint: RemoteEndpoint) -> Option<RemoteEndpoint> {
        let old = self.remove(name);
        *self.hosts.entry(endpoint.host).or_default() += 1;
        self.by_name.insert(name.into(), endpoint);
        old
    }

    /// Takes out the endpoint of this name.
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

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &RemoteEndpoint> {
        self.by_name.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Addresses of the hosts that have any, in order.
    pub fn hosts(&self) -> impl Iterator<Item = VtepAddr> {
        self.hosts.keys().copied()
    }

    /// Whether this host has any.
    #[must_use]
    pub fn has_host(&self, address: VtepAddr) -> bool {
        self.hosts.contains_key(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_there_for_as_long_as_it_has_an_endpoint() {
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
