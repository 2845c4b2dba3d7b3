//! Restarts, upgrades and map resizes under load.

use aya::maps::MapInfo;
use overlay_common::maps;
use overlay_tests::{
    check::until,
    lab::{Daemon, Endpoint, NIC, Network},
};

use crate::setup::{Build, Upgrade, programs};

/// Replaces the daemon of each host, and checks that every hook has a new program.
#[track_caller]
pub(crate) fn replace_daemons(setup: &mut Upgrade, end: impl Fn(&mut Daemon), build: Build) {
    setup.change(|host, daemon| {
        let before = programs(host);
        end(daemon);
        daemon.replace_binary(&build.binary());
        daemon.restart().unwrap();
        let after = programs(host);
        assert!(!before.is_empty(), "no program is attached");
        for (hook, old) in &before {
            let new: Vec<_> = after.iter().filter(|(same, _)| same == hook).map(|(_, id)| id).collect();
            assert!(new.len() == 1 && *new[0] != *old, "{hook} has the old program, or none: {before:?} {after:?}");
        }
        // A new version can have more programs.
        assert!(build == Build::This || after.len() == before.len(), "{before:?} {after:?}");
    });
    setup.assert_clean(build);
}

pub(crate) fn sigterm(daemon: &mut Daemon) {
    assert!(daemon.sigterm().unwrap().success());
}

pub(crate) fn kill9(daemon: &mut Daemon) {
    daemon.kill9().unwrap();
}

#[test]
fn restart_and_sigkill_lose_no_packet() {
    let mut setup = Upgrade::start("tc");
    replace_daemons(&mut setup, sigterm, Build::This);
    replace_daemons(&mut setup, kill9, Build::This);
    setup.finish();
}

#[test]
fn upgrade_and_downgrade_lose_no_packet() {
    let mut setup = Upgrade::start("tc");
    replace_daemons(&mut setup, sigterm, Build::Other);
    replace_daemons(&mut setup, sigterm, Build::This);
    replace_daemons(&mut setup, kill9, Build::Other);
    setup.finish();
}

#[test]
fn upgrade_and_downgrade_with_xdp_lose_no_packet() {
    let mut setup = Upgrade::start("xdp");
    replace_daemons(&mut setup, sigterm, Build::Other);
    replace_daemons(&mut setup, kill9, Build::This);
    setup.finish();
}

/// Another `fdb_size` needs a new map.
#[test]
fn fdb_resize_loses_no_packet() {
    let mut setup = Upgrade::start("tc");
    setup.configure(|cluster| cluster.fdb_size = Some(1000));
    replace_daemons(&mut setup, kill9, Build::This);
    // In a running daemon.
    let mut programs_before = [1, 2].map(|host| programs(setup.lab.host(host)));
    setup.configure(|cluster| cluster.fdb_size = Some(2000));
    for (host, before) in [1, 2].into_iter().zip(&mut programs_before) {
        until("the daemon uses the new map", || programs(setup.lab.host(host)) != *before);
        until("the new map is renamed", || !setup.daemon(host).pin_root().join("next").exists());
    }
    setup.change(|_, _| {});
    setup.assert_clean(Build::This);
    setup.finish();
}

/// The daemon has created maps of the new size when another part of the file fails.
#[test]
fn fdb_resize_in_refused_file_is_rolled_back_without_loss() {
    let mut setup = Upgrade::start("tc");
    // A VXLAN device that was moved to another netns conflicts only when the second one is created.
    let host = setup.lab.host(1);
    host.run(&["ip", "link", "add", "vx7", "type", "vxlan", "id", "4098", "dev", NIC, "dstport", "4789"]);
    let other_netns = setup.lab.host(2).containers()[0].path().to_str().unwrap().to_owned();
    host.run(&["ip", "link", "set", "vx7", "netns", &other_netns]);
    let before = programs(setup.lab.host(1));
    setup.configure(|cluster| {
        cluster.fdb_size = Some(3000);
        let second = Network { name: "second".into(), vni: 4098, subnet: "10.0.2.0/24".into(), ..Network::example() };
        cluster.networks.push(Network { gateway: None, ..second });
        let (network, ip) = ("second".to_owned(), [10, 0, 2, 2].into());
        let endpoint = Endpoint { network, ip, netns: None, ..cluster.endpoints[0].clone() };
        cluster.endpoints.push(endpoint);
    });
    let daemon = setup.daemon(1);
    until("the configuration is rejected", || daemon.log().contains("the configuration is rejected"));
    until("the old map is restored", || {
        programs(setup.lab.host(1)) != before && !daemon.pin_root().join("next").exists()
    });
    let entries = MapInfo::from_pin(daemon.pin_root().join(maps::FDB.name)).unwrap().max_entries();
    assert_eq!(entries, maps::FDB.entries);
    setup.change(|_, _| {});
    setup.assert_clean(Build::This);
    setup.finish();
}
