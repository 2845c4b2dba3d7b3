//! Networks. Subnets and VNIs are allocated under one key that every creation of a network changes.

use ipnet::Ipv4Net;
use overlay_common::{Vni, VtepAddr};

use super::{
    Compare, Entry, NetworkRequest, Op, Outcome, Removal, Store, StoreError, StoredEndpoint, Txn,
    attempt::Attempts,
    broken,
    schema::{self, AllocatorRecord, Claim, ConfigRecord, EndpointRecord, Key, NetworkRecord, NodeRecord},
    unchanged, version_op,
};
use crate::model::{NetworkSpec, Parts, rule::PartRef};

/// Number of endpoints removed in one transaction: etcd accepts 128 operations.
const BATCH: usize = 25;

impl Store {
    /// Creates a network.
    ///
    /// # Errors
    /// When a rule of the model is broken, or no subnet or VNI is free.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<NetworkSpec, StoreError> {
        let _turn = self.lock_turn(schema::ALLOCATOR).await;
        let mut attempts = Attempts::new(format!("network {:?}", request.name));
        // The network of an attempt whose answer was lost: it may be committed.
        let mut uncertain = None;
        loop {
            let tried = self.try_create(&request, uncertain.as_ref()).await;
            let (network, outcome) = match attempts.retry_outage(tried).await? {
                Some((network, outcome)) => (network, attempts.retry_outage(outcome).await?),
                None => continue,
            };
            match outcome {
                Some(Outcome::Committed(revision)) => {
                    self.record_written(revision);
                    return Ok(network);
                }
                Some(Outcome::Refused(_)) => attempts.retry_conflict().await?,
                None => uncertain = Some(network),
            }
        }
    }

    async fn try_create(
        &self,
        request: &NetworkRequest,
        uncertain: Option<&NetworkSpec>,
    ) -> Result<(NetworkSpec, Result<Outcome, StoreError>), StoreError> {
        // The allocator's key first: a later creation of a network changes it, and the transaction fails.
        let keys = [schema::VERSION.into(), schema::CONFIG.into(), schema::ALLOCATOR.into()];
        let [version, config, allocator] = self.read(keys).await?;
        let version = version_op(version.as_ref())?;
        let config = config.as_ref().map(schema::record::<ConfigRecord>).transpose()?.unwrap_or_default();
        let cursor = allocator.as_ref().map(schema::record::<AllocatorRecord>).transpose()?;
        let mut networks = self.networks().await?;
        if let Some(uncertain) = uncertain
            && networks.contains(uncertain)
        {
            let [created] = self.read([schema::network(&uncertain.name)]).await?;
            return Ok((uncertain.clone(), Ok(Outcome::Committed(created.map_or(0, |entry| entry.mod_revision)))));
        }
        let nodes = self.node_addresses().await?;
        let (network, next_vni) =
            choose(request, &config, cursor.map_or(config.first_vni, |cursor| cursor.next_vni), &networks, &nodes)?;
        networks.push(network.clone());
        let last = PartRef::Network(networks.len() - 1);
        let parts = Parts { networks, ..Parts::default() };
        broken(parts.validate(), |object| object == last)?;
        let key = schema::network(&network.name);
        let mut then = vec![
            Op::put(key.clone(), schema::encode(&NetworkRecord::new(&network))),
            Op::put(schema::ALLOCATOR, schema::encode(&AllocatorRecord { next_vni })),
        ];
        then.extend(version);
        let when = vec![Compare::Absent(key), unchanged(schema::ALLOCATOR.into(), allocator.as_ref())];
        let outcome = self.kv.commit(Txn { when, then, otherwise: Vec::new() }).await;
        Ok((network, outcome))
    }

    /// The valid networks, oldest first, including those being removed, which keep their subnet and VNI.
    pub(super) async fn networks(&self) -> Result<Vec<NetworkSpec>, StoreError> {
        let mut entries = self.kv.list(schema::NETWORKS).await?.entries;
        entries.sort_by_key(|entry| entry.create_revision);
        let parsed = entries.iter().filter_map(|entry| {
            let name = entry.key.strip_prefix(schema::NETWORKS)?;
            schema::record::<NetworkRecord>(entry).ok()?.network(name).ok()
        });
        Ok(parsed.collect())
    }

    async fn node_addresses(&self) -> Result<Vec<VtepAddr>, StoreError> {
        let nodes = self.kv.list(schema::NODES).await?.entries;
        Ok(nodes.iter().filter_map(|entry| Some(schema::record::<NodeRecord>(entry).ok()?.address)).collect())
    }

    /// Removes a network; with [`Removal::Forced`] also its endpoints. Returns the removed objects.
    ///
    /// [`Removal::Forced`] uses several transactions. After the first one the network accepts no endpoints; another
    /// call continues an incomplete removal.
    ///
    /// # Errors
    /// When the network does not exist, or has endpoints.
    pub async fn remove_network(
        &self,
        name: &str,
        removal: Removal,
    ) -> Result<(NetworkSpec, Vec<StoredEndpoint>), StoreError> {
        let missing = || StoreError::NoSuchNetwork { name: name.into() };
        let mut attempts = Attempts::new(format!("network {name:?}"));
        let (mut removed, mut seen) = (Vec::new(), None);
        loop {
            let tried = self.try_remove(name, removal, &mut removed).await;
            match attempts.retry_outage(tried).await? {
                // A commit with a lost answer has removed it.
                Some(None) => return seen.map(|network| (network, removed)).ok_or_else(missing),
                Some(Some((network, true))) => return Ok((network, removed)),
                Some(Some((network, false))) => {
                    seen = Some(network);
                    attempts.retry_conflict().await?;
                }
                None => {}
            }
        }
    }

    /// `None`: the network does not exist. `false`: the removal is incomplete.
    async fn try_remove(
        &self,
        name: &str,
        removal: Removal,
        removed: &mut Vec<StoredEndpoint>,
    ) -> Result<Option<(NetworkSpec, bool)>, StoreError> {
        let key = schema::network(name);
        let [Some(entry)] = self.read([key.clone()]).await? else { return Ok(None) };
        let mut record = schema::record::<NetworkRecord>(&entry)?;
        let invalid = |reason| StoreError::Invalid { key: key.clone(), reason };
        let network = record.network(name).map_err(invalid)?;
        let claims = self.kv.list(&schema::names(name)).await?.entries;
        if !claims.is_empty() && removal == Removal::Unused {
            return Err(StoreError::NetworkInUse { name: name.into(), endpoints: claims.len() });
        }
        if !claims.is_empty() {
            if !record.removing {
                record.removing = true;
                let when = vec![Compare::Unchanged(key.clone(), entry.mod_revision)];
                let then = vec![Op::put(key, schema::encode(&record))];
                self.commit(Txn { when, then, otherwise: Vec::new() }).await?;
                return Ok(Some((network, false)));
            }
            for batch in claims.chunks(BATCH) {
                removed.extend(self.remove_claimed(name, batch).await?);
            }
            return Ok(Some((network, false)));
        }
        let when = vec![Compare::Unchanged(key.clone(), entry.mod_revision), Compare::Empty(schema::names(name))];
        let then = vec![Op::Delete(key), Op::DeletePrefix(schema::ipam(name))];
        let done = matches!(self.commit(Txn { when, then, otherwise: Vec::new() }).await?, Outcome::Committed(_));
        Ok(Some((network, done)))
    }

    /// Removes the endpoints of these name claims unless a claim has changed.
    pub(super) async fn remove_claimed(
        &self,
        network: &str,
        claims: &[Entry],
    ) -> Result<Vec<StoredEndpoint>, StoreError> {
        let (mut when, mut then, mut keys, mut names) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in claims {
            let claim = schema::record::<Claim>(entry)?;
            let endpoint = schema::endpoint(&claim.node, network, &claim.endpoint);
            when.push(Compare::Unchanged(entry.key.clone(), entry.mod_revision));
            then.extend([
                Op::Delete(endpoint.clone()),
                Op::Delete(entry.key.clone()),
                Op::Delete(schema::address(network, claim.ip)),
                Op::Delete(schema::mac(network, claim.mac)),
            ]);
            keys.extend([endpoint, schema::node(&claim.node)]);
            names.push(claim);
        }
        let found = self.kv.read(keys).await?;
        let find = |key: String| found.iter().find(|entry| entry.key == key);
        let stored = names.iter().filter_map(|claim| {
            let (node, name) = (&claim.node, &claim.endpoint);
            let record: EndpointRecord = schema::record(find(schema::endpoint(node, network, name))?).ok()?;
            let host: NodeRecord = schema::record(find(schema::node(node))?).ok()?;
            record.stored((node, network, name), host.address).ok()
        });
        let stored = stored.collect();
        // Claims alone are not followed keys.
        let is_followed = found.iter().any(|entry| matches!(Key::parse(&entry.key), Some(Key::Endpoint { .. })));
        match self.kv.commit(Txn { when, then, otherwise: Vec::new() }).await? {
            Outcome::Committed(revision) => {
                self.record_written(if is_followed { revision } else { 0 });
                Ok(stored)
            }
            Outcome::Refused(_) => Ok(Vec::new()),
        }
    }
}

/// The network with all values chosen, and the next VNI to try.
fn choose(
    request: &NetworkRequest,
    config: &ConfigRecord,
    next_vni: u32,
    networks: &[NetworkSpec],
    nodes: &[VtepAddr],
) -> Result<(NetworkSpec, u32), StoreError> {
    let name = request.name.clone();
    let (vni, next_vni) = match request.vni {
        Some(vni) => (vni, next_vni),
        None => {
            let vni = free_vni(config.first_vni, next_vni, networks)
                .ok_or_else(|| StoreError::VnisExhausted { name: name.clone() })?;
            (vni, vni.get() + 1)
        }
    };
    let subnet = match request.subnet {
        Some(subnet) => subnet,
        None => free_subnet(config, networks, nodes).ok_or_else(|| StoreError::PoolsExhausted {
            name: name.clone(),
            pools: config.pools.iter().map(|pool| pool.base).collect(),
        })?,
    };
    let first = u32::from(subnet.network()).saturating_add(1).into();
    let &NetworkRequest { gateway, mtu, port, strict, overlap, .. } = request;
    Ok((NetworkSpec { name, vni, subnet, gateway: gateway.unwrap_or(first), mtu, port, strict, overlap }, next_vni))
}

/// The first unused VNI from `next` on, wrapping around to `first`.
fn free_vni(first: u32, next: u32, networks: &[NetworkSpec]) -> Option<Vni> {
    let used: std::collections::HashSet<_> = networks.iter().map(|network| network.vni).collect();
    let first = first.max(1);
    let next = next.max(first);
    let numbers = (next..=Vni::MAX.get()).chain(first..next);
    numbers.filter_map(|number| Vni::new(number).ok()).find(|vni| !used.contains(vni))
}

/// The first subnet of the pools that overlaps no network and no node's address.
fn free_subnet(config: &ConfigRecord, networks: &[NetworkSpec], nodes: &[VtepAddr]) -> Option<Ipv4Net> {
    let used: Vec<(u32, u32)> = networks
        .iter()
        .map(|network| (network.subnet.network().into(), network.subnet.broadcast().into()))
        .chain(nodes.iter().map(|node| (node.ipv4().into(), node.ipv4().into())))
        .collect();
    for pool in &config.pools {
        let (first, last) = (u32::from(pool.base.network()), u32::from(pool.base.broadcast()));
        if pool.prefix < pool.base.prefix_len() || pool.prefix > crate::model::rule::PREFIX_MAX {
            continue;
        }
        let size = 1_u64 << (32 - u32::from(pool.prefix));
        let mut base = u64::from(first);
        while base <= u64::from(last) {
            let end = base + size - 1;
            match used
                .iter()
                .filter(|(low, high)| u64::from(*low) <= end && u64::from(*high) >= base)
                .max_by_key(|u| u.1)
            {
                // Continue after the overlapping range.
                Some((_, high)) => base = (u64::from(*high) + 1).max(base + 1).next_multiple_of(size),
                None => return Ipv4Net::new(u32::try_from(base).ok()?.into(), pool.prefix).ok(),
            }
        }
    }
    None
}
