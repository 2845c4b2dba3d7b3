//! Two hosts on a kernel without TCX.

use overlay_tests::lab::NIC;

use overlay_tests::testbed::Testbed;

#[test]
fn clsact_filters_forward_pings_and_tcp_both_ways() {
    let setup = Testbed::two_hosts();
    for host in setup.lab.hosts() {
        let filters = host.run(&["tc", "filter", "show", "dev", NIC, "ingress"]);
        assert!(filters.contains("ovl_nic_in"), "this kernel has TCX? {filters}");
    }
    setup.ping_both_ways();
    setup.tcp_both_ways(5_000_001);
}
