//! Nodes: a permanent record, and a liveness key with a lease.

use std::time::Duration;

use tokio::{task::JoinHandle, time::sleep};
use tracing::{info, warn};

use super::{
    Compare, NodeRequest, Op, Outcome, Removal, Store, StoreError, StoredEndpoint, Txn,
    attempt::Attempts,
    broken,
    schema::{self, AliveRecord, NodeClaim, NodeRecord},
    unchanged, version_op,
};
use crate::model::{
    Parts, counted,
    rule::{Field, already_used},
};

/// Renews a node's registration. After a drop the registration lasts until its lease expires; a daemon that restarts
/// before then continues with it.
#[derive(Debug)]
pub struct Registration {
    keeper: JoinHandle<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Store {
    /// Registers a node and renews its registration. A repeated call within the lease changes nothing for other nodes.
    ///
    /// # Errors
    /// When a rule of the model is broken, or another node has the name or the address.
    pub async fn register_node(&self, request: NodeRequest) -> Result<Registration, StoreError> {
        let mut attempts = Attempts::new(format!("node {:?}", request.name));
        loop {
            let tried = self.try_register(&request).await;
            match attempts.retry_outage(tried).await? {
                Some(true) => break,
                Some(false) => attempts.retry_conflict().await?,
                None => {}
            }
        }
        let lease = loop {
            if let Some(lease) = attempts.retry_outage(self.write_alive(&request).await).await? {
                break lease;
            }
        };
        Ok(Registration { keeper: tokio::spawn(keep_alive(self.clone(), request, lease)) })
    }

    /// Writes the node's record unless it is up to date. `false`: a concurrent change came first.
    async fn try_register(&self, request: &NodeRequest) -> Result<bool, StoreError> {
        let NodeRequest { name, address, rx, .. } = request;
        let (key, claim_key) = (schema::node(name), schema::node_address(*address));
        let keys = [schema::VERSION.into(), key.clone(), claim_key.clone()];
        let [version, entry, claim] = self.read(keys).await?;
        let version = version_op(version.as_ref())?;
        let record = NodeRecord { address: *address, rx: *rx };
        if let Some(entry) = &entry {
            let known = schema::record::<NodeRecord>(entry)?;
            if known.address != *address {
                return Err(StoreError::NodeAddress { name: name.clone(), address: known.address });
            }
            if known == record {
                return Ok(true);
            }
        }
        let hosts = vec![record.host(name)];
        broken(Parts { hosts, ..Parts::default() }.validate(), |_| true)?;
        if let Some(entry) = &claim {
            let holder = schema::record::<NodeClaim>(entry)?.node;
            if holder != *name {
                return Err(used_by_other(request, &holder));
            }
        }
        let when = vec![unchanged(key.clone(), entry.as_ref()), unchanged(claim_key.clone(), claim.as_ref())];
        let mut then = vec![Op::put(key, schema::encode(&record))];
        if claim.is_none() {
            then.push(Op::put(claim_key, schema::encode(&NodeClaim { node: name.clone() })));
        }
        then.extend(version);
        let outcome = self.commit(Txn { when, then, otherwise: Vec::new() }).await?;
        Ok(matches!(outcome, Outcome::Committed(_)))
    }

    /// Writes the node's liveness key, with its existing lease if there is one.
    async fn write_alive(&self, request: &NodeRequest) -> Result<Option<i64>, StoreError> {
        let key = schema::alive(&request.name);
        let record = AliveRecord { ttl: request.ttl.as_secs() };
        if let [Some(entry)] = self.read([key.clone()]).await?
            && entry.lease != 0
            && schema::record(&entry).is_ok_and(|known: AliveRecord| known == record)
            && self.kv.renew(entry.lease).await?
        {
            return Ok(Some(entry.lease));
        }
        let lease = self.kv.grant(request.ttl).await?;
        let put = Op::Put { key, value: schema::encode(&record), lease: lease.unwrap_or(0) };
        self.commit(Txn { then: vec![put], ..Txn::default() }).await?;
        Ok(lease)
    }

    /// Removes a node; with [`Removal::Forced`] also its endpoints, and even if it is alive.
    ///
    /// # Errors
    /// When the node does not exist, is alive, or has endpoints.
    pub async fn remove_node(&self, name: &str, removal: Removal) -> Result<Vec<StoredEndpoint>, StoreError> {
        let in_use = |reason: String, remedy| StoreError::NodeInUse { name: name.into(), reason, remedy };
        let [Some(node), alive] = self.read([schema::node(name), schema::alive(name)]).await? else {
            return Err(StoreError::NoSuchNode { name: name.into() });
        };
        if alive.is_some() && removal == Removal::Unused {
            return Err(in_use("is alive".into(), "stop its daemon and wait until its lease expires, or use --force"));
        }
        let endpoints = self.kv.list(&schema::node_endpoints(name)).await?.entries;
        if !endpoints.is_empty() && removal == Removal::Unused {
            let reason = format!("has {}", counted(endpoints.len(), "endpoint"));
            return Err(in_use(reason, "remove the endpoints first, or use --force"));
        }
        let mut removed = Vec::new();
        for entry in endpoints {
            if let Some(schema::Key::Endpoint { network, name, .. }) = schema::Key::parse(&entry.key) {
                match self.remove_endpoint(network, name).await {
                    Ok(endpoint) => removed.push(endpoint),
                    // A key without a claim is removed below.
                    Err(StoreError::NoSuchEndpoint { .. } | StoreError::NoSuchNetwork { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut then = vec![
            Op::Delete(schema::node(name)),
            Op::Delete(schema::alive(name)),
            Op::DeletePrefix(schema::node_endpoints(name)),
        ];
        if let Ok(record) = schema::record::<NodeRecord>(&node) {
            then.push(Op::Delete(schema::node_address(record.address)));
        }
        let when = vec![Compare::Unchanged(schema::node(name), node.mod_revision)];
        match self.commit(Txn { when, then, otherwise: Vec::new() }).await? {
            Outcome::Committed(_) => Ok(removed),
            Outcome::Refused(_) => {
                Err(in_use("was registered again in the meantime".into(), "stop its daemon, or retry"))
            }
        }
    }
}

/// Renews the lease three times within its time to live; creates a new one after its expiry, for example by a
/// partition.
async fn keep_alive(store: Store, request: NodeRequest, lease: Option<i64>) {
    let Some(mut lease) = lease else { return };
    let mut is_failing = false;
    loop {
        let pause = if is_failing { Duration::from_millis(500) } else { request.ttl / 3 };
        sleep(pause).await;
        match renew(&store, &request, lease).await {
            Ok(renewed) => {
                if is_failing {
                    info!("the registration of node {:?} is renewed again", request.name);
                }
                is_failing = false;
                lease = renewed;
            }
            Err(error) if is_failing => tracing::debug!("{error}"),
            Err(error) => {
                is_failing = true;
                warn!("the registration of node {:?} cannot be renewed: {error}", request.name);
            }
        }
    }
}

async fn renew(store: &Store, request: &NodeRequest, lease: i64) -> Result<i64, StoreError> {
    let renewed = store.kv.renew(lease).await?;
    let [node, alive] = store.read([schema::node(&request.name), schema::alive(&request.name)]).await?;
    if renewed && node.is_some() && alive.is_some_and(|entry| entry.lease == lease) {
        return Ok(lease);
    }
    store.try_register(request).await?;
    Ok(store.write_alive(request).await?.unwrap_or(lease))
}

fn used_by_other(request: &NodeRequest, holder: &str) -> StoreError {
    let finding = already_used(Field::Address, request.address, &format!("host {holder:?}"), "host");
    StoreError::Rule(finding.about(format!("host {:?}", request.name)).into())
}
