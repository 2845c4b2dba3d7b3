//! `overlay down` with shims that it cannot remove.

use std::{fs, process::Output};

use overlay_tests::{
    check::interfaces,
    lab::{NIC, overlay_binary, snapshot::tree},
};

use super::replica::{Plan, Replica, Second, VNI};

#[test]
fn down_names_shims_it_cannot_remove_and_second_run_removes_them() {
    let mut replica = Replica::new(Plan { second: Second::Apart, ..Plan::default() }).run();
    replica.nodes[0].end();
    let (node, faults) = (replica.node(1), tempfile::NamedTempFile::new().unwrap());
    let down = || {
        let mut command = node.host.command(overlay_binary().unwrap());
        command.args(["down", "--pin-root"]).arg(node.pins()).env("OVERLAY_FAULTS", faults.path());
        let Output { status, stderr, .. } = command.output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let shims = [VNI, VNI + 1].map(|vni| format!("ovlsh{vni}"));
    fs::write(faults.path(), format!("netlink {}\n", libc::ENOMEM)).unwrap();
    let (code, stderr) = down();
    assert_eq!(code, Some(1), "{stderr}");
    for shim in &shims {
        let line = stderr.lines().find(|line| line.contains(shim) && line.contains("annot allocate memory"));
        assert!(line.is_some(), "{stderr}");
        assert!(interfaces(&node.host).contains(shim), "{stderr}");
    }
    let left = tree(node.pins());
    assert!(!left.contains("nic-") && !left.contains("port-") && !left.contains("OVL_"), "{left}");
    assert!(left.contains(&format!("shim:{VNI}")), "the record stays: {left}");

    fs::write(faults.path(), "").unwrap();
    assert_eq!(down().0, Some(0));
    assert_eq!(interfaces(&node.host), ["lo", NIC]);
    assert!(!interfaces(&node.sandbox).contains(&shims[0]));
    assert!(!node.pins().exists());
}
