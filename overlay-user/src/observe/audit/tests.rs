use std::{collections::BTreeMap, net::Ipv4Addr};

use overlay_common::{
    MacAddr, Vni, VtepAddr,
    maps::{FdbEntry, FdbKey, PortKey, Vtep},
    outer::OuterHeader,
};

use super::*;
use crate::{
    apply::{bpf::Running, ledger::AttachPoint},
    kernel,
    plan::{
        host::{DesiredHost, HostChanges, HostState, objects::FdbPort},
        tables::{Changes, Tables},
    },
};

const MAC: MacAddr = MacAddr([2, 0x42, 10, 0, 1, 6]);
const VTEP: VtepAddr = VtepAddr::new(Ipv4Addr::new(192, 168, 1, 10));

fn vni() -> Vni {
    Vni::new(4097).unwrap()
}

fn one_entry() -> Tables {
    let outer = OuterHeader::template([192, 168, 1, 9], VTEP.octets(), 4789);
    let vtep = Vtep { outer, mtu: 1450, ifindex: 2, ip_sum: outer.ip_sum(), resolved: 1 };
    Tables {
        fdb: BTreeMap::from([(FdbKey::new(4097, MAC), FdbEntry::remote(0))]),
        vteps: BTreeMap::from([(0, vtep)]),
        ..Tables::default()
    }
}

fn compared(wanted: &Tables, found: &Tables, written: &Tables, last_error: Option<&str>) -> Vec<Difference> {
    let devices = BTreeMap::from([(PortKey::host(2), "enp0s3".to_owned())]);
    let names = Names { devices, vteps: BTreeMap::from([(0, VTEP)]), ..Names::default() };
    let mut found = found.clone();
    found.copy_txport_netns(wanted);
    maps(&Changes::between(&found, wanted), written, &names, last_error)
}

#[test]
fn equal_tables_have_no_differences() {
    assert_eq!(compared(&one_entry(), &one_entry(), &one_entry(), None), []);
}

#[test]
fn entry_removed_by_another_program_is_missing() {
    let (wanted, mut found) = (one_entry(), one_entry());
    found.fdb.clear();
    let [difference] = compared(&wanted, &found, &wanted, None).try_into().unwrap();
    assert_eq!((difference.table.as_str(), difference.kind), ("OVL_FDB", Kind::Missing));
    assert_eq!(difference.finding.object, "VNI 4097 02:42:0a:00:01:06");
    assert_eq!(difference.wanted.as_deref(), Some("VTEP 192.168.1.10 (index 0)"));
    assert_eq!((difference.found, difference.netns, difference.owner), (None, None, Owner::Overlay));
    assert!(difference.finding.problem.contains("another program removed it"), "{}", difference.finding.problem);
}

#[test]
fn entry_that_the_daemon_could_not_write_has_its_last_error() {
    let (wanted, mut found) = (one_entry(), one_entry());
    found.fdb.clear();
    let [difference] = compared(&wanted, &found, &found, Some("the map is full")).try_into().unwrap();
    assert_eq!(difference.finding.problem, "the daemon could not write it: the map is full");
}

#[test]
fn undesired_entry_is_stray() {
    let mut found = one_entry();
    found.fdb.insert(FdbKey::new(9, MAC), FdbEntry::remote(0));
    let [difference] = compared(&one_entry(), &found, &one_entry(), None).try_into().unwrap();
    assert_eq!((difference.kind, difference.finding.object.as_str()), (Kind::Stray, "VNI 9 02:42:0a:00:01:06"));
    assert_eq!(difference.wanted, None);
}

/// Also in fields that the short text omits.
#[test]
fn changed_entry_shows_the_changed_field() {
    for change in [|vtep: &mut Vtep| vtep.mtu = 1000, |vtep: &mut Vtep| vtep.outer.ttl = 1] {
        let mut found = one_entry();
        change(found.vteps.get_mut(&0).unwrap());
        let [difference] = compared(&one_entry(), &found, &one_entry(), None).try_into().unwrap();
        assert_eq!((difference.table.as_str(), difference.kind), ("OVL_VTEPS", Kind::Differs));
        assert_ne!(difference.wanted, difference.found);
    }
}

/// The map does not hold the namespace of a device.
#[test]
fn devices_are_compared_without_their_namespace() {
    let mut wanted = one_entry();
    wanted.txports.insert(1 << 31, PortKey { netns_id: 1, ifindex: 7 });
    let mut found = wanted.clone();
    found.txports.insert(1 << 31, PortKey { netns_id: 0, ifindex: 7 });
    assert_eq!(compared(&wanted, &found, &wanted, None), []);
    found.txports.insert(1 << 31, PortKey { netns_id: 0, ifindex: 8 });
    assert_eq!(compared(&wanted, &found, &wanted, None).len(), 1);
}

fn kernel_tables() -> DesiredHost {
    DesiredHost {
        bridges: BTreeMap::from([(
            vni(),
            crate::plan::host::Bridge {
                alias: "overlay blue".into(),
                mtu: 1450,
                mac: None,
                addresses: [].into(),
                up: true,
            },
        )]),
        fdb: BTreeMap::from([((vni(), MAC), VTEP)]),
        bridge_fdb: BTreeMap::from([((vni(), MAC), FdbPort::Vxlan)]),
        ..DesiredHost::default()
    }
}

fn kernel_differences(found: &HostState) -> Vec<Difference> {
    let wanted = kernel_tables();
    kernel(found, &HostChanges::between(found, &wanted), None)
}

#[test]
fn changed_kernel_entry_shows_both_states() {
    assert_eq!(kernel_differences(&kernel_tables()), []);
    for (changed, said) in [
        (VtepAddr::from([192, 168, 1, 77]), "VTEP 192.168.1.77"),
        (VtepAddr::UNSPECIFIED, "a dynamic entry or one with options"),
    ] {
        let mut found = kernel_tables();
        found.fdb.insert((vni(), MAC), changed);
        let [difference] = kernel_differences(&found).try_into().unwrap();
        assert_eq!((difference.table.as_str(), difference.kind), ("fdb", Kind::Differs));
        assert_eq!(difference.finding.object, "ovlvx4097 02:42:0a:00:01:06");
        assert_eq!(
            (difference.wanted.as_deref(), difference.found.as_deref()),
            (Some("VTEP 192.168.1.10"), Some(said))
        );
    }
}

#[test]
fn entries_of_a_missing_device_are_not_reported() {
    let found = HostState { fdb: kernel_tables().fdb, ..HostState::default() };
    let [difference] = kernel_differences(&found).try_into().unwrap();
    assert_eq!((difference.table.as_str(), difference.finding.object.as_str()), ("devices", "ovlbr4097"));
    assert_eq!(difference.kind, Kind::Missing);
}

#[test]
fn changed_device_shows_both_states() {
    let mut found = kernel_tables();
    found.bridges.get_mut(&vni()).unwrap().up = false;
    let [difference] = kernel_differences(&found).try_into().unwrap();
    assert_eq!(difference.kind, Kind::Differs);
    assert!(difference.found.unwrap().starts_with("down") && difference.wanted.unwrap().starts_with("up"));
}

#[test]
fn hook_is_compared_by_its_pin_and_its_attached_programs() {
    let port = AttachPoint::Port(PortKey::host(5));
    let compare = |pinned: Option<u32>, attached: Option<&[u32]>| {
        let running = Running { pinned, attached: attached.map(<[u32]>::to_vec), wanted: Some(7) };
        hook(port, &running, ("veth0", None), None).map(|difference| (difference.kind, difference.found))
    };
    assert_eq!(compare(Some(7), Some(&[7])), None);
    assert_eq!(compare(Some(7), Some(&[3, 7, 4])), None, "other programs may be attached, too");
    assert_eq!(compare(None, None), None, "the device is removed");
    assert_eq!(compare(None, Some(&[])), Some((Kind::Missing, None)));
    assert_eq!(compare(Some(7), Some(&[3])), Some((Kind::Missing, None)));
    assert_eq!(compare(Some(9), Some(&[9])), Some((Kind::Differs, Some("program 9".to_owned()))));
    assert_eq!(compare(None, Some(&[7])), Some((Kind::Differs, Some("the program, without a pin".to_owned()))));
}

mod docker {
    use super::*;
    use crate::{
        kernel::{FdbState, Neighbour},
        model::{
            discovery::NetnsRef,
            network::{External, Tunnel},
        },
    };

    const DEVICE: u32 = 5;
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 6);

    fn network() -> External {
        External {
            mtu: 1450,
            tunnel: Tunnel::default(),
            netns: NetnsRef::Other { path: "/var/run/docker/netns/1-abc".into(), inode: 1 },
            device: "vxlan0".into(),
            ports: BTreeMap::new(),
            remote: BTreeMap::from([(MAC, VTEP)]),
            peers: [VTEP].into(),
            refusal: None,
        }
    }

    fn entry(mac: MacAddr, dst: Option<VtepAddr>, state: FdbState) -> kernel::FdbEntry {
        kernel::FdbEntry {
            ifindex: DEVICE,
            mac,
            own: dst.is_some(),
            state,
            dst,
            vlan: None,
            special: false,
            sticky: false,
        }
    }

    fn tables() -> ExternalTables {
        ExternalTables {
            device: DEVICE,
            proxy: true,
            fdb: vec![entry(MAC, Some(VTEP), FdbState::Static), entry(MAC, None, FdbState::Learned)],
            neighbours: vec![Neighbour { ifindex: DEVICE, ip: IP, mac: MAC }],
        }
    }

    #[track_caller]
    fn reported(network: &External, tables: &ExternalTables) -> Vec<(String, String, Kind)> {
        let found = external(network, tables);
        assert!(found.iter().all(|difference| difference.owner == Owner::External));
        assert!(
            found.iter().all(|difference| difference.netns.as_deref() == Some("/var/run/docker/netns/1-abc".as_ref()))
        );
        found.into_iter().map(|difference| (difference.table, difference.finding.object, difference.kind)).collect()
    }

    fn row(table: &str, object: String, kind: Kind) -> Vec<(String, String, Kind)> {
        vec![(table.to_owned(), object, kind)]
    }

    #[test]
    fn tables_that_agree_are_not_reported() {
        assert_eq!(reported(&network(), &tables()), []);
        // Entries that the kernel has learned have no neighbour.
        let mut learned = tables();
        learned.fdb.push(entry(MacAddr([2; 6]), Some(VTEP), FdbState::Learned));
        // A container of this host.
        let local = MacAddr([4; 6]);
        learned.neighbours.push(Neighbour { ifindex: DEVICE, ip: IP, mac: local });
        learned.fdb.push(kernel::FdbEntry { ifindex: 9, ..entry(local, None, FdbState::Learned) });
        assert_eq!(reported(&network(), &learned), []);
    }

    #[test]
    fn missed_change_is_reported_once() {
        let mut without = tables();
        without.fdb.clear();
        assert_eq!(reported(&network(), &without), row("fdb", format!("vxlan0 {MAC}"), Kind::Missing));
        let mut moved = tables();
        moved.fdb[0].dst = Some([192, 168, 1, 77].into());
        assert_eq!(reported(&network(), &moved), row("fdb", format!("vxlan0 {MAC}"), Kind::Differs));
    }

    #[test]
    fn half_of_an_entry_is_reported_once() {
        let unknown = External { remote: BTreeMap::new(), ..network() };
        let mut without_entry = tables();
        without_entry.fdb.clear();
        assert_eq!(reported(&unknown, &without_entry), row("fdb", format!("vxlan0 {MAC}"), Kind::Missing));
        let without_neighbour = ExternalTables { neighbours: Vec::new(), ..tables() };
        assert_eq!(
            reported(&network(), &without_neighbour),
            row("neighbours", format!("vxlan0 at {MAC}"), Kind::Missing)
        );
        let other = MacAddr([2; 6]);
        let changed =
            ExternalTables { neighbours: vec![Neighbour { ifindex: DEVICE, ip: IP, mac: other }], ..tables() };
        assert_eq!(reported(&network(), &changed), row("neighbours", format!("vxlan0 {IP}"), Kind::Differs));
    }

    /// Without `proxy`, ARP goes through the tunnel and needs no neighbours.
    #[test]
    fn without_proxy_no_neighbour_is_missing() {
        let tables = ExternalTables { neighbours: Vec::new(), proxy: false, ..tables() };
        assert_eq!(reported(&network(), &tables), []);
    }
}
