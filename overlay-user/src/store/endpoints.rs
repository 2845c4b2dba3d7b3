//! Endpoints. Each network has a cursor, and addresses are allocated in order, wrapping around.

use std::{collections::HashSet, net::Ipv4Addr};

use overlay_common::{MacAddr, VtepAddr};

use super::{
    Compare, EndpointRequest, Entry, Op, Outcome, Store, StoreError, StoredEndpoint, Txn,
    attempt::Attempts,
    broken, pick,
    schema::{self, Claim, CursorRecord, EndpointRecord, NetworkRecord, NodeRecord},
    unchanged, version_op,
};
use crate::model::{
    Endpoint, Host, NetworkSpec, Parts, endpoint_label,
    rule::{Field, PartRef, already_used},
};

/// Entries that an `add` depends on; read again when a transaction is refused.
struct Context {
    version: Option<Entry>,
    network: Option<Entry>,
    node: Option<Entry>,
    cursor: Option<Entry>,
    name: Option<Entry>,
}

/// Existing claims that refused a transaction.
#[derive(Default)]
struct Conflict {
    address: Option<Entry>,
    mac: Option<Entry>,
}

impl Store {
    /// Registers an endpoint on the node of this name, which must be registered.
    ///
    /// # Errors
    /// When a rule of the model is broken, or no address is free. Nothing is allocated then.
    pub async fn add_endpoint(&self, node: &str, request: EndpointRequest) -> Result<Endpoint, StoreError> {
        let _turn = self.lock_turn(&request.network).await;
        let id = format!("{:016x}", fastrand::u64(..));
        let mut attempts = Attempts::new(endpoint_label(&request.network, &request.name));
        // Explicitly requested addresses may be taken ahead of the cursor.
        let mut taken: Option<HashSet<Ipv4Addr>> = None;
        let mut context = None;
        loop {
            let now = match context.take() {
                Some(context) => context,
                None => match attempts.retry_outage(self.context(node, &request).await).await? {
                    Some(context) => context,
                    None => continue,
                },
            };
            let add = Add::new(node, &request, &now, taken.as_ref(), &id)?;
            if add.committed {
                self.record_written(now.name.as_ref().map_or(0, |claim| claim.mod_revision));
                return Ok(add.endpoint);
            }
            let (txn, keys) = add.transaction(&now)?;
            match attempts.retry_outage(self.commit(txn).await).await? {
                // The transaction may be committed: then the name exists with this id.
                None => {}
                Some(Outcome::Committed(_)) => return Ok(add.endpoint),
                Some(Outcome::Refused(found)) => {
                    let [version, network, node, cursor, name, address, mac] = pick(found, &keys);
                    let conflict = Conflict { address, mac };
                    let moved = cursor.as_ref().map(|entry| entry.mod_revision)
                        != now.cursor.as_ref().map(|entry| entry.mod_revision);
                    context = Some(Context { version, network, node, cursor, name });
                    add.check_conflict(&conflict, &id)?;
                    if !moved && (conflict.address.is_some() || conflict.mac.is_some()) {
                        taken = attempts.retry_outage(self.taken(&request.network).await).await?;
                    }
                    attempts.retry_conflict().await?;
                }
            }
        }
    }

    async fn context(&self, node: &str, request: &EndpointRequest) -> Result<Context, StoreError> {
        let EndpointRequest { network, name, .. } = request;
        let keys = [
            schema::VERSION.into(),
            schema::network(network),
            schema::node(node),
            schema::cursor(network),
            schema::name(network, name),
        ];
        let [version, network, node, cursor, name] = self.read(keys).await?;
        Ok(Context { version, network, node, cursor, name })
    }

    /// All unavailable addresses: those that are claimed, and those whose derived MAC address is claimed.
    async fn taken(&self, network: &str) -> Result<HashSet<Ipv4Addr>, StoreError> {
        let claims = self.kv.list(&schema::names(network)).await?.entries;
        let claims = claims.iter().filter_map(|entry| schema::record::<Claim>(entry).ok());
        Ok(claims
            .flat_map(|claim| {
                let [a, b, c, d, e, f] = claim.mac.0;
                let derived = (a == 0x02 && b == 0x42).then(|| Ipv4Addr::new(c, d, e, f));
                [Some(claim.ip), derived]
            })
            .flatten()
            .collect())
    }

    /// Removes an endpoint of any node, and releases its addresses.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn remove_endpoint(&self, network: &str, name: &str) -> Result<StoredEndpoint, StoreError> {
        let mut attempts = Attempts::new(endpoint_label(network, name));
        let mut last = None;
        loop {
            let tried = async {
                let [Some(claim)] = self.read([schema::name(network, name)]).await? else { return Ok(None) };
                let stored = self.claimed(network, name, &claim).await?;
                Ok(Some((stored, self.remove_claimed(network, &[claim]).await)))
            };
            match attempts.retry_outage(tried.await).await? {
                Some(None) => {
                    // The last attempt, whose answer was lost, has removed it.
                    return last
                        .ok_or_else(|| StoreError::NoSuchEndpoint { network: network.into(), name: name.into() });
                }
                Some(Some((stored, removed))) => match attempts.retry_outage(removed).await? {
                    None => last = Some(stored),
                    Some(removed) if removed.is_empty() => attempts.retry_conflict().await?,
                    Some(_) => return Ok(stored),
                },
                None => {}
            }
        }
    }

    /// Reads an endpoint by the claim of its name.
    async fn claimed(&self, network: &str, name: &str, claim: &Entry) -> Result<StoredEndpoint, StoreError> {
        let claim = schema::record::<Claim>(claim)?;
        let node = &claim.node;
        let key = schema::endpoint(node, network, name);
        let keys = [key.clone(), schema::node(node), schema::network(network)];
        let [endpoint, host, of] = self.read(keys).await?;
        let address = host.as_ref().map(schema::record::<NodeRecord>).transpose()?.map(|record| record.address);
        let record = match (&endpoint, &of) {
            (Some(entry), _) => schema::record::<EndpointRecord>(entry)?,
            // A claim without an endpoint can be removed.
            (None, Some(of)) => {
                let vni = schema::record::<NetworkRecord>(of)?.vni;
                EndpointRecord { vni, ip: claim.ip, mac: claim.mac, netns: None, port: None, interface: None }
            }
            (None, None) => return Err(StoreError::NoSuchNetwork { name: network.into() }),
        };
        record
            .stored((node, network, name), address.unwrap_or(VtepAddr::UNSPECIFIED))
            .map_err(|reason| StoreError::Invalid { key, reason })
    }
}

/// One attempt to add one endpoint.
struct Add<'a> {
    request: &'a EndpointRequest,
    node: &'a str,
    network: NetworkSpec,
    endpoint: Endpoint,
    claim: Claim,
    /// An earlier attempt, whose answer was lost, is committed.
    committed: bool,
}

impl<'a> Add<'a> {
    fn new(
        node: &'a str,
        request: &'a EndpointRequest,
        now: &Context,
        taken: Option<&HashSet<Ipv4Addr>>,
        id: &str,
    ) -> Result<Self, StoreError> {
        let missing = || StoreError::NoSuchNetwork { name: request.network.clone() };
        let entry = now.network.as_ref().ok_or_else(missing)?;
        let record = schema::record::<NetworkRecord>(entry)?;
        if record.removing {
            return Err(StoreError::NetworkRemoving { name: request.network.clone() });
        }
        let invalid = |reason| StoreError::Invalid { key: entry.key.clone(), reason };
        let network = record.network(&request.network).map_err(invalid)?;
        let host = now.node.as_ref().ok_or_else(|| StoreError::NoSuchNode { name: node.into() })?;
        let host = schema::record::<NodeRecord>(host)?.host(node);
        let earlier = now.name.as_ref().map(schema::record::<Claim>).transpose()?;
        let committed = match &earlier {
            Some(claim) if claim.id != id => {
                return Err(used_by_other(request, Field::Name, &format!("{:?}", request.name), claim));
            }
            other => other.is_some(),
        };
        let ip = match (&earlier, request.ip) {
            (Some(claim), _) => claim.ip,
            (None, Some(ip)) => ip,
            (None, None) => next_address(&network, now.cursor.as_ref(), taken).ok_or_else(|| {
                let (network_name, name) = (request.network.clone(), request.name.clone());
                StoreError::SubnetExhausted { network: network_name, name, subnet: network.subnet }
            })?,
        };
        let mac = request.mac.unwrap_or_else(|| MacAddr::from_ipv4(ip.octets()));
        let endpoint = Endpoint {
            name: request.name.clone(),
            vni: network.vni,
            ip,
            mac,
            host: host.address,
            attachment: request.attachment.clone(),
        };
        check(host, network.clone(), endpoint.clone())?;
        let claim = Claim { node: node.into(), endpoint: request.name.clone(), ip, mac, id: id.into() };
        Ok(Self { request, node, network, endpoint, claim, committed })
    }

    /// The transaction, and the keys that it reads if it is refused.
    fn transaction(&self, now: &Context) -> Result<(Txn, [String; 7]), StoreError> {
        let EndpointRequest { network, name, .. } = self.request;
        let Endpoint { ip, mac, .. } = self.endpoint;
        let keys = [
            schema::VERSION.into(),
            schema::network(network),
            schema::node(self.node),
            schema::cursor(network),
            schema::name(network, name),
            schema::address(network, ip),
            schema::mac(network, mac),
        ];
        let [_, network_key, node_key, cursor_key, name_key, address_key, mac_key] = keys.clone();
        let mut when = vec![
            unchanged(network_key, now.network.as_ref()),
            unchanged(node_key, now.node.as_ref()),
            Compare::Absent(name_key.clone()),
            Compare::Absent(address_key.clone()),
            Compare::Absent(mac_key.clone()),
        ];
        let claim = schema::encode(&self.claim);
        let record = EndpointRecord::new(&self.endpoint, self.request.interface.clone());
        let mut then = vec![
            Op::put(schema::endpoint(self.node, network, name), schema::encode(&record)),
            Op::put(name_key, claim.clone()),
            Op::put(address_key, claim.clone()),
            Op::put(mac_key, claim),
        ];
        if self.request.ip.is_none() {
            when.push(unchanged(cursor_key.clone(), now.cursor.as_ref()));
            let next = next_in_range(&self.network, ip);
            then.push(Op::put(cursor_key, schema::encode(&CursorRecord { next })));
        }
        then.extend(version_op(now.version.as_ref())?);
        Ok((Txn { when, then, otherwise: keys.to_vec() }, keys))
    }

    /// Fails if an explicitly requested address is taken.
    fn check_conflict(&self, conflict: &Conflict, id: &str) -> Result<(), StoreError> {
        let Self { request, endpoint, .. } = self;
        for (entry, requested, field, value) in [
            (&conflict.address, request.ip.is_some(), Field::Ip, endpoint.ip.to_string()),
            (&conflict.mac, request.mac.is_some() || request.ip.is_some(), Field::Mac, endpoint.mac.to_string()),
        ] {
            if let (Some(entry), true) = (entry, requested) {
                let claim = schema::record::<Claim>(entry)?;
                if claim.id != id {
                    return Err(used_by_other(request, field, &value, &claim));
                }
            }
        }
        Ok(())
    }
}

/// The same error as by [`Parts::validate`].
fn used_by_other(request: &EndpointRequest, field: Field, value: &str, claim: &Claim) -> StoreError {
    let finding =
        already_used(field, value, &endpoint_label(&request.network, &claim.endpoint), "endpoint of a network");
    StoreError::Rule(finding.about(endpoint_label(&request.network, &request.name)).into())
}

/// Checks the rules that do not depend on other endpoints.
fn check(host: Host, network: NetworkSpec, endpoint: Endpoint) -> Result<(), StoreError> {
    let parts = Parts { hosts: vec![host], networks: vec![network], endpoints: vec![endpoint], ..Parts::default() };
    broken(parts.validate(), |object| matches!(object, PartRef::Endpoint(_)))
}

/// The first and the last address of endpoints, in host byte order.
fn range(network: &NetworkSpec) -> (u32, u32) {
    (u32::from(network.subnet.network()) + 1, u32::from(network.subnet.broadcast()) - 1)
}

/// The next address; wraps around to the first one.
fn next_in_range(network: &NetworkSpec, ip: Ipv4Addr) -> Ipv4Addr {
    let (first, last) = range(network);
    let next = u32::from(ip).saturating_add(1);
    if (first..=last).contains(&next) { next.into() } else { first.into() }
}

/// The first free address from the cursor on, wrapping around once.
fn next_address(network: &NetworkSpec, cursor: Option<&Entry>, taken: Option<&HashSet<Ipv4Addr>>) -> Option<Ipv4Addr> {
    let (first, last) = range(network);
    let start = cursor.and_then(|entry| schema::record::<CursorRecord>(entry).ok()).map(|cursor| cursor.next);
    let start = start.map(u32::from).filter(|start| (first..=last).contains(start)).unwrap_or(first);
    let gateway = MacAddr::from_ipv4(network.gateway.octets());
    (start..=last).chain(first..start).map(Ipv4Addr::from).find(|ip| {
        *ip != network.gateway
            && MacAddr::from_ipv4(ip.octets()) != gateway
            && taken.is_none_or(|taken| !taken.contains(ip))
    })
}
