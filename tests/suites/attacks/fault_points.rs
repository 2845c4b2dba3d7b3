//! Injected faults, which the release build does not have.

use std::time::Duration;

use overlay_tests::{
    check::{links, until},
    lab::NetNs,
    testbed::Testbed,
};

/// Whether the host end of gindemo1's veth exists, and whether it is up.
fn host_end(host: &NetNs) -> Option<bool> {
    let found = links(host).into_iter().find(|link| {
        let name = link["ifname"].as_str().unwrap();
        name.len() == 13 && name.starts_with("ovl")
    })?;
    Some(found["flags"].as_array().unwrap().iter().any(|flag| flag == "UP"))
}

/// A new port of a strict network is down until its checks are attached; a port of another network is not.
#[test]
fn endpoint_joins_strict_network_after_its_checks_are_attached() {
    for strict in [true, false] {
        let mut testbed = Testbed::with_spares();
        let file = testbed.config().with_file_name("faults");
        std::fs::write(&file, "").unwrap();
        testbed.prefix = ["env".into(), format!("OVERLAY_FAULTS={}", file.display()).into()].into();
        testbed.cluster.networks[0].strict = strict;
        let endpoints = std::mem::take(&mut testbed.cluster.endpoints);
        testbed.start(1).unwrap();
        let program = if strict { "ovl_port_check" } else { "ovl_port_in" };
        std::fs::write(&file, format!("attach:{program} {}\n", libc::ENOMEM)).unwrap();
        testbed.configure(|cluster| cluster.endpoints = endpoints);
        let host = testbed.lab.host(1).clone();
        until("the port exists", || host_end(&host).is_some());
        until("the failure is reported", || {
            testbed.daemon(1).overlay(&["status", "--json"]).unwrap().to_string().contains(program)
        });
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(host_end(&host), Some(!strict));
        std::fs::write(&file, "").unwrap();
        until("the port is up", || host_end(&host) == Some(true));
        testbed.wait_until_converged();
    }
}
