//! Endpoints that are added and removed at an even rate.

use std::{
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use overlay_user::testing::store::StoreError;
use tokio::{task::JoinSet, time::sleep_until};

use super::{
    Size,
    nodes::{Nodes, SimulatedEndpoint, request},
    watch::{Committed, watch},
};
use crate::lab::traffic::Latency;

/// Number of endpoints that change. Half of them exist at any time: at 1,000 changes per second each exists for two
/// seconds.
const CHANGING: u32 = 2_000;

/// Limit of concurrent changes.
const CONCURRENT: usize = 500;

/// Result of the changes.
pub(super) struct Outcome {
    /// Changes made per second, in all networks.
    pub(super) per_second: f64,
    pub(super) took: Duration,
    /// Time from commit to map, of the changes in networks of the node under test.
    pub(super) latency: Latency,
    /// Changes in those networks that never reached the map.
    pub(super) missing: usize,
}

/// Makes changes, and measures when they reach the map below `pin_root`.
pub(super) fn run(nodes: &Nodes, size: Size, pin_root: &Path) -> Result<Outcome> {
    let count = CHANGING.min(size.rate * 2) & !1;
    let endpoint = |number: u32| {
        // Not node 0: its daemon owns its endpoints.
        let node = 1 + number % (size.nodes - 1);
        nodes.endpoint(node, size.endpoints + number / (size.nodes - 1))
    };
    let endpoints: Vec<SimulatedEndpoint> = (0..count).map(endpoint).collect();
    nodes.runtime.block_on(async {
        let mut making = JoinSet::new();
        for (index, endpoint) in endpoints.iter().enumerate().skip(count as usize / 2) {
            let (store, node) = (nodes.stores[index % nodes.stores.len()].clone(), nodes.name(endpoint.node));
            let endpoint = *endpoint;
            making.spawn(async move { store.add_endpoint(&node, request(endpoint)).await.map(drop) });
        }
        while let Some(made) = making.join_next().await {
            made??;
        }
        anyhow::Ok(())
    })?;
    // The daemon processes this burst before the even rate begins.
    thread::sleep(Duration::from_secs(2).min(size.time));

    let (sender, changes) = mpsc::channel();
    thread::scope(|scope| {
        let watching = scope.spawn(move || watch(pin_root, &changes));
        let start = Instant::now();
        let count = size.rate * u32::try_from(size.time.as_millis())? / 1_000;
        let made = nodes.runtime.block_on(make(nodes, &endpoints, (size.rate, count), sender));
        let took = start.elapsed();
        let (latency, missing) = watching.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
        made?;
        Ok(Outcome { per_second: f64::from(count) / took.as_secs_f64(), took, latency, missing })
    })
}

async fn make(
    nodes: &Nodes,
    endpoints: &[SimulatedEndpoint],
    (rate, count): (u32, u32),
    sender: mpsc::Sender<Committed>,
) -> Result<()> {
    let start = tokio::time::Instant::now();
    let mut making: JoinSet<Result<(), StoreError>> = JoinSet::new();
    for number in 0..count {
        sleep_until(start + Duration::from_secs(1) * number / rate).await;
        let present = number % 2 == 0;
        let step = number as usize / 2 + if present { 0 } else { endpoints.len() / 2 };
        let endpoint = endpoints[step % endpoints.len()];
        let (store, node) = (nodes.stores[number as usize % nodes.stores.len()].clone(), nodes.name(endpoint.node));
        let sender = nodes.is_relevant(endpoint.network).then(|| sender.clone());
        making.spawn(async move {
            if present {
                store.add_endpoint(&node, request(endpoint)).await?;
            } else {
                let request = request(endpoint);
                store.remove_endpoint(&request.network, &request.name).await?;
            }
            if let Some(sender) = sender {
                // A closed channel means that the watcher has failed; `run` returns its error.
                let _ = sender.send(Committed { key: endpoint.key(), present, at: Instant::now() });
            }
            Ok(())
        });
        while let Some(made) = making.try_join_next() {
            made??;
        }
        // An endpoint must not be removed before it is added, so the number of concurrent changes is limited.
        if making.len() >= CONCURRENT
            && let Some(made) = making.join_next().await
        {
            made??;
        }
    }
    while let Some(made) = making.join_next().await {
        made??;
    }
    Ok(())
}
