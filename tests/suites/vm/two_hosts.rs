//! Two hosts on a kernel without TCX.

use std::time::Duration;

use overlay_tests::{lab::NIC, tables::Expected, testbed::Testbed};

#[test]
fn clsact_filters_forward_pings_and_tcp_both_ways() {
    let setup = Testbed::two_hosts();
    for host in setup.lab.hosts() {
        let filters = host.run(&["tc", "filter", "show", "dev", NIC, "ingress"]);
        assert!(filters.contains("ovl_nic_in"), "this kernel has TCX? {filters}");
    }
    for host in [1, 2] {
        let expected = Expected { clsact: true, ..setup.expected(host) };
        expected.wait(Duration::from_secs(60)).unwrap();
    }
    setup.ping_both_ways();
    setup.tcp_both_ways(5_000_001);
}
