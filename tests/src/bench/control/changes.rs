//! Endpoints that come and go at an even pace.

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
    Extent,
    nodes::{Nodes, Place, request},
    watch::{Committed, watch},
};
use crate::lab::traffic::Latency;

/// Endpoints that change, half of them there at any time: each stays for two seconds at 1,000 changes per second.
const SLOTS: u32 = 2_000;

/// Changes that are under way at once.
const UNDER_WAY: usize = 500;

/// What became of the changes.
pub(super) struct Followed {
    /// Changes made per second, of all networks.
    pub(super) per_second: f64,
    pub(super) took: Duration,
    /// Of those that concern the node under test.
    pub(super) latency: Latency,
    /// Of those, the ones that the map never had.
    pub(super) missing: usize,
}

/// Makes changes, and watches them come to the map below `pin_root`.
pub(super) fn follow(nodes: &Nodes, extent: Extent, pin_root: &Path) -> Result<Followed> {
    let slots = SLOTS.min(extent.rate * 2) & !1;
    let place = |slot: u32| {
        // Not node 0, whose endpoints are the daemon's own.
        let node = 1 + slot % (extent.nodes - 1);
        nodes.place(node, extent.endpoints + slot / (extent.nodes - 1))
    };
    let places: Vec<Place> = (0..slots).map(place).collect();
    nodes.runtime.block_on(async {
        let mut making = JoinSet::new();
        for (index, place) in places.iter().enumerate().skip(slots as usize / 2) {
            let (store, node) = (nodes.stores[index % nodes.stores.len()].clone(), nodes.name(place.node));
            let place = *place;
            making.spawn(async move { store.add_endpoint(&node, request(place)).await.map(drop) });
        }
        while let Some(made) = making.join_next().await {
            made??;
        }
        anyhow::Ok(())
    })?;
    // What came at once has to have gone through before the even pace begins.
    thread::sleep(Duration::from_secs(2).min(extent.time));

    let (sender, changes) = mpsc::channel();
    thread::scope(|scope| {
        let watching = scope.spawn(move || watch(pin_root, &changes));
        let start = Instant::now();
        let count = extent.rate * u32::try_from(extent.time.as_millis())? / 1_000;
        let made = nodes.runtime.block_on(make(nodes, &places, (extent.rate, count), sender));
        let took = start.elapsed();
        let (latency, missing) = watching.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?;
        made?;
        Ok(Followed { per_second: f64::from(count) / took.as_secs_f64(), took, latency, missing })
    })
}

async fn make(
    nodes: &Nodes,
    places: &[Place],
    (rate, count): (u32, u32),
    sender: mpsc::Sender<Committed>,
) -> Result<()> {
    let start = tokio::time::Instant::now();
    let mut making: JoinSet<Result<(), StoreError>> = JoinSet::new();
    for number in 0..count {
        sleep_until(start + Duration::from_secs(1) * number / rate).await;
        let present = number % 2 == 0;
        let step = number as usize / 2 + if present { 0 } else { places.len() / 2 };
        let place = places[step % places.len()];
        let (store, node) = (nodes.stores[number as usize % nodes.stores.len()].clone(), nodes.name(place.node));
        let sender = nodes.concerns(place.network).then(|| sender.clone());
        making.spawn(async move {
            if present {
                store.add_endpoint(&node, request(place)).await?;
            } else {
                let request = request(place);
                store.remove_endpoint(&request.network, &request.name).await?;
            }
            if let Some(sender) = sender {
                // Nobody watches any more: the watcher's error is the one to tell.
                let _ = sender.send(Committed { key: place.key(), present, at: Instant::now() });
            }
            Ok(())
        });
        while let Some(made) = making.try_join_next() {
            made??;
        }
        // Who cannot keep the pace must not take an endpoint away before it is there.
        if making.len() >= UNDER_WAY
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
