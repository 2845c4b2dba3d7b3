//! `FileSource` with real files.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::NETWORK;
use crate::{
    model::Cluster,
    sources::{Source, SourceError, file::FileSource},
};

/// Timeout of one update, long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the debounce time, with a margin.
const QUIET_TIME: Duration = Duration::from_millis(600);

fn text(vni: u32) -> String {
    NETWORK.replace("vni = 1", &format!("vni = {vni}"))
}

async fn next(source: &mut FileSource) -> Result<Cluster, SourceError> {
    timeout(TIMEOUT, source.next_cluster()).await.expect("an update in time")
}

async fn assert_vni(source: &mut FileSource, vni: u32) {
    assert_eq!(next(source).await.expect("a cluster").networks[0].vni.get(), vni);
}

async fn assert_silent(source: &mut FileSource) {
    let update = timeout(QUIET_TIME, source.next_cluster()).await;
    assert!(update.is_err(), "{update:?}");
}

fn rename_over(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn file_renamed_over_old_one_is_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;
    for vni in 2..5 {
        rename_over(&path, &text(vni));
        let start = Instant::now();
        assert_vni(&mut source, vni).await;
        // Shorter than the poll interval: inotify reported it.
        assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn file_written_in_place_is_one_update() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;
    fs::write(&path, text(2)).unwrap();
    assert_vni(&mut source, 2).await;
    assert_silent(&mut source).await;
}

#[tokio::test]
async fn identical_content_is_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;
    rename_over(&path, &text(1));
    fs::write(dir.path().join("other"), "").unwrap();
    assert_silent(&mut source).await;
}

#[tokio::test]
async fn invalid_file_is_one_error_and_next_valid_one_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;

    rename_over(&path, &text(0));
    let error = next(&mut source).await.unwrap_err();
    assert!(matches!(error, SourceError::Config(_)));
    let expected = "6: network \"red\": 0 is not a VNI: a VNI has 24 bits and is not 0, so use 1 to 16777215";
    assert_eq!(error.to_string(), format!("{}:{expected}", path.display()));
    rename_over(&path, &text(0));
    assert_silent(&mut source).await;

    // The content from before the mistake is an update too: it clears the error.
    rename_over(&path, &text(1));
    assert_vni(&mut source, 1).await;
}

#[tokio::test]
async fn deleted_file_is_an_error_and_restored_file_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(
        next(&mut source).await.unwrap_err().to_string(),
        format!(
            "{}: file: no longer readable (No such file or directory (os error 2)); \
            restore it, the last configuration stays active",
            path.display()
        )
    );
    assert_silent(&mut source).await;
    fs::write(&path, text(2)).unwrap();
    assert_vni(&mut source, 2).await;
}

#[tokio::test]
async fn missing_file_is_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc/cluster.toml");
    let mut source = FileSource::new(&path);
    assert!(matches!(next(&mut source).await, Err(SourceError::Config(_))));
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(&path, text(1)).unwrap();
    assert_vni(&mut source, 1).await;
}

#[tokio::test]
async fn replaced_directory_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc");
    let path = etc.join("cluster.toml");
    fs::create_dir(&etc).unwrap();
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;
    fs::rename(&etc, dir.path().join("old")).unwrap();
    fs::create_dir(&etc).unwrap();
    fs::write(&path, text(2)).unwrap();
    assert_vni(&mut source, 2).await;
    rename_over(&path, &text(3));
    assert_vni(&mut source, 3).await;
}

/// The layout of a Kubernetes `ConfigMap` volume: `cluster.toml` → `..data/cluster.toml`, `..data` → a directory per
/// version.
#[tokio::test]
async fn swapped_symlink_is_an_update() {
    let dir = tempfile::tempdir().unwrap();
    for (version, vni) in [("..v1", 1), ("..v2", 2)] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("cluster.toml"), text(vni)).unwrap();
    }
    symlink("..v1", dir.path().join("..data")).unwrap();
    let path = dir.path().join("cluster.toml");
    symlink("..data/cluster.toml", &path).unwrap();
    let mut source = FileSource::new(&path);
    assert_vni(&mut source, 1).await;
    symlink("..v2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    fs::remove_dir_all(dir.path().join("..v1")).unwrap();
    assert_vni(&mut source, 2).await;
    fs::write(dir.path().join("..v2/cluster.toml"), text(3)).unwrap();
    assert_vni(&mut source, 3).await;
}

#[tokio::test]
async fn dropped_future_loses_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, text(1)).unwrap();
    let mut source = FileSource::new(&path);
    let mut seen = Vec::new();
    let start = Instant::now();
    while seen.last() != Some(&2) {
        assert!(start.elapsed() < TIMEOUT, "{seen:?}");
        // Much shorter than the debounce time: nearly every future is dropped.
        if let Ok(update) = timeout(Duration::from_millis(7), source.next_cluster()).await {
            seen.push(update.unwrap().networks[0].vni.get());
            if seen == [1] {
                rename_over(&path, &text(2));
            }
        }
    }
    assert_eq!(seen, [1, 2]);
}
