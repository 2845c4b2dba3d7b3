//! [`Kv`] over etcd v3.

use std::{fmt, future::Future, path::Path, sync::Arc, time::Duration};

use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, Identity, KeyValue, PutOptions, TlsOptions, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, sleep};

use super::{
    EtcdOptions, StoreError,
    kv::{Batch, Compare, Entry, Event, Kv, Listing, Op, Outcome, SharedKv, Txn, Watch, WatchError},
};

/// Timeout of an answer; a leader election takes less.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Pause between two requests, which may use different members.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Interval of pings, and the timeout of their answers.
const PING: Duration = Duration::from_secs(2);
/// Number of keys in one read: some megabytes.
const PAGE: i64 = 10_000;

impl EtcdOptions {
    fn options_error(&self, reason: String, remedy: &'static str) -> StoreError {
        StoreError::Options { store: self.endpoints.join(","), reason, remedy }
    }

    fn tls(&self) -> Result<Option<TlsOptions>, StoreError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| {
                self.options_error(format!("{} cannot be read ({error})", path.display()), "correct the path")
            })
        };
        let https = self.endpoints.iter().filter(|url| url.starts_with("https://")).count();
        if https != 0 && https != self.endpoints.len() {
            return Err(
                self.options_error("some URLs use https and some do not".into(), "use https:// in all URLs or in none")
            );
        }
        if https == 0 {
            return match (&self.ca, &self.client) {
                (None, None) => Ok(None),
                _ => Err(self.options_error("certificates require https".into(), "use https:// in the URLs")),
            };
        }
        let Some(ca) = &self.ca else {
            return Err(
                self.options_error("the CA certificate is missing".into(), "set the CA of the servers' certificates")
            );
        };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let Some((certificate, key)) = &self.client {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(Some(tls))
    }
}

/// A connection to etcd.
#[derive(Clone)]
pub(super) struct Etcd {
    client: Client,
    name: String,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.name).finish()
    }
}

pub(super) async fn connect(options: &EtcdOptions) -> Result<SharedKv, StoreError> {
    Ok(Arc::new(Etcd::connect(options).await?))
}

impl Etcd {
    async fn connect(options: &EtcdOptions) -> Result<Self, StoreError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(PING)
            .with_keep_alive(PING, PING)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &options.user {
            connect = connect.with_user(name, password);
        }
        if let Some(tls) = options.tls()? {
            connect = connect.with_tls(tls);
        }
        let name = options.endpoints.join(",");
        let client =
            retry(&name, "the connection", || Client::connect(&options.endpoints, Some(connect.clone()))).await?;
        Ok(Self { client, name })
    }

    /// Reads one page of a range, at a revision unless it is 0.
    async fn page(&self, from: Vec<u8>, end: Vec<u8>, revision: i64) -> Result<etcd_client::GetResponse, StoreError> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(revision);
        retry(&self.name, "to read", || {
            let mut client = self.client.kv_client().max_decoding_message_size(usize::MAX);
            let (from, options) = (from.clone(), options.clone());
            async move { client.get(from, Some(options)).await }
        })
        .await
    }
}

/// [`with_timeout`] with retries until its timeout, for idempotent requests. A request to a failed member fails at
/// once, and the next one may use another member.
async fn retry<T, F>(store: &str, what: &str, work: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Error>>,
{
    let start = Instant::now();
    loop {
        match with_timeout(store, what, work()).await {
            Err(error) if error.is_unreachable() && start.elapsed() + RETRY_PAUSE < TIMEOUT => sleep(RETRY_PAUSE).await,
            done => return done,
        }
    }
}

/// Gives up after [`TIMEOUT`].
async fn with_timeout<T>(
    store: &str,
    what: &str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(store, what, &error)),
        Err(_) => {
            let reason = format!("no answer within {} s", TIMEOUT.as_secs());
            Err(StoreError::Unreachable { store: store.into(), reason })
        }
    }
}

fn failed(store: &str, what: &str, error: &Error) -> StoreError {
    /// gRPC's `INVALID_ARGUMENT`, `PERMISSION_DENIED`, `FAILED_PRECONDITION`, `UNAUTHENTICATED`: etcd's answers to an
    /// unknown or unauthorized user.
    const REFUSALS: [i32; 4] = [3, 7, 9, 16];
    let store = store.to_owned();
    match error {
        Error::GRpcStatus(status) if REFUSALS.contains(&(status.code() as i32)) => {
            StoreError::Denied { store, what: what.into(), reason: status.message().into() }
        }
        Error::GRpcStatus(status) => StoreError::Unreachable { store, reason: status.message().into() },
        Error::InvalidArgs(reason) => {
            StoreError::Options { store, reason: reason.clone(), remedy: "correct the options" }
        }
        Error::InvalidUri(error) => {
            StoreError::Options { store, reason: error.to_string(), remedy: "use URLs like https://10.77.0.1:2379" }
        }
        other => StoreError::Unreachable { store, reason: other.to_string() },
    }
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        lease: kv.lease(),
    }
}

/// The first key after all keys with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff: the last byte can be incremented.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn compare(compare: Compare) -> EtcdCompare {
    match compare {
        Compare::Absent(key) => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
        Compare::Unchanged(key, revision) => EtcdCompare::mod_revision(key, CompareOp::Equal, revision),
        // etcd compares all keys of a range; an empty range compares like a missing key.
        Compare::Empty(prefix) => EtcdCompare::create_revision(prefix, CompareOp::Equal, 0).with_prefix(),
    }
}

fn operation(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease: 0 } => TxnOp::put(key, value, None),
        Op::Put { key, value, lease } => TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease))),
        Op::Delete(key) => TxnOp::delete(key, None),
        Op::DeletePrefix(prefix) => TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix())),
    }
}

fn found(response: &etcd_client::TxnResponse) -> Vec<Entry> {
    let responses = response.op_responses();
    let gets = responses.iter().filter_map(|response| match response {
        TxnOpResponse::Get(get) => Some(get.kvs()),
        _ => None,
    });
    gets.flatten().map(entry).collect()
}

impl Kv for Etcd {
    fn read(&self, keys: Vec<String>) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        let gets: Vec<_> = keys.into_iter().map(|key| TxnOp::get(key, None)).collect();
        async move {
            let txn = etcd_client::Txn::new().and_then(gets);
            let response = retry(&self.name, "to read", || {
                let (mut client, txn) = (self.client.kv_client(), txn.clone());
                async move { client.txn(txn).await }
            });
            Ok(found(&response.await?))
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        async move {
            let mut listing = Listing::default();
            let mut from = prefix.as_bytes().to_vec();
            loop {
                let page = self.page(from, end_of(prefix), listing.revision).await?;
                if listing.revision == 0 {
                    listing.revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
                }
                listing.entries.extend(page.kvs().iter().map(entry));
                match page.kvs().last() {
                    Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
                    _ => return Ok(listing),
                }
            }
        }
        .boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let what = match txn.then.first() {
            Some(Op::Put { key, .. } | Op::Delete(key)) => format!("to write {key}"),
            _ => "to write".into(),
        };
        async move {
            let txn = etcd_client::Txn::new()
                .when(txn.when.into_iter().map(compare).collect::<Vec<_>>())
                .and_then(txn.then.into_iter().map(operation).collect::<Vec<_>>())
                .or_else(txn.otherwise.into_iter().map(|key| TxnOp::get(key, None)).collect::<Vec<_>>());
            let mut client = self.client.kv_client();
            let response = with_timeout(&self.name, &what, client.txn(txn)).await?;
            if response.succeeded() {
                Ok(Outcome::Committed(response.header().map_or(0, etcd_client::ResponseHeader::revision)))
            } else {
                Ok(Outcome::Refused(found(&response)))
            }
        }
        .boxed()
    }

    fn watch<'a>(&'a self, prefix: &'a str, revision: i64) -> BoxFuture<'a, Result<Box<dyn Watch>, WatchError>> {
        async move {
            let options = WatchOptions::new().with_prefix().with_start_revision(revision);
            let stream = retry(&self.name, "to watch", || {
                let mut client = self.client.watch_client().max_decoding_message_size(usize::MAX);
                let options = options.clone();
                async move { client.watch(prefix, Some(options)).await }
            });
            let stream = stream.await?;
            Ok(Box::new(EtcdWatch { stream, store: self.name.clone() }) as Box<dyn Watch>)
        }
        .boxed()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<Option<i64>, StoreError>> {
        async move {
            let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
            // A grant with a lost answer leaves a lease without keys, which expires.
            let granted = retry(&self.name, "a lease", || {
                let mut client = self.client.lease_client();
                async move { client.grant(seconds, None).await }
            });
            Ok(Some(granted.await?.id()))
        }
        .boxed()
    }

    fn renew(&self, lease: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let renewed = retry(&self.name, "to renew a lease", || {
                let mut client = self.client.lease_client();
                async move {
                    match client.keep_alive(lease).await {
                        Ok(_) => Ok(true),
                        // The client's error for a missing lease.
                        Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                        Err(error) => Err(error),
                    }
                }
            });
            renewed.await
        }
        .boxed()
    }
}

struct EtcdWatch {
    stream: WatchStream,
    store: String,
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, WatchError>> {
        async move {
            let lost = |reason: String| StoreError::Unreachable { store: self.store.clone(), reason };
            let Some(response) =
                self.stream.message().await.map_err(|error| failed(&self.store, "to watch", &error))?
            else {
                return Err(lost("the watch ended".into()).into());
            };
            if response.compact_revision() != 0 {
                return Err(WatchError::Compacted(response.compact_revision()));
            }
            if response.canceled() {
                let reason = response.cancel_reason();
                return Err(if reason.contains("permission denied") {
                    StoreError::Denied { store: self.store.clone(), what: "to watch".into(), reason: reason.into() }
                } else {
                    lost(reason.into())
                }
                .into());
            }
            let events = response.events().iter().filter_map(|event| {
                let kv = event.kv()?;
                Some(match event.event_type() {
                    EventType::Put => Event::Put(entry(kv)),
                    EventType::Delete => Event::Delete { key: entry(kv).key, revision: kv.mod_revision() },
                })
            });
            // The header's revision may be ahead of events that a slow watch has not delivered yet.
            let revision = match response.events().last().and_then(etcd_client::Event::kv) {
                Some(kv) => kv.mod_revision(),
                None => 0,
            };
            Ok(Batch { revision, events: events.collect() })
        }
        .boxed()
    }
}
