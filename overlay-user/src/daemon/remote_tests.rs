use std::net::Ipv4Addr;

use super::*;
use crate::model::{Attachment, Host, Network, Rx};

const VNI: u32 = 4096;

fn vni() -> Vni {
    Vni::new(VNI).unwrap()
}

fn endpoint(name: &str, last: u8, host: u8) -> Endpoint {
    let ip = Ipv4Addr::new(10, 0, 0, last);
    Endpoint {
        name: name.into(),
        vni: vni(),
        ip,
        mac: overlay_common::MacAddr::from_ipv4(ip.octets()),
        host: Ipv4Addr::new(192, 168, 1, host),
        attachment: Attachment::Unspecified,
    }
}

fn change(name: &str, endpoint: Option<Endpoint>) -> RemoteChange {
    RemoteChange { vni: vni(), name: name.into(), endpoint }
}

fn view(remote: Vec<Endpoint>) -> View {
    let network = Network {
        name: "blue".into(),
        vni: vni(),
        subnet: "10.0.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        mtu: None,
        port: 4789,
        strict: false,
        overlap: false,
    };
    let host = Host { name: "node01".into(), address: Ipv4Addr::new(192, 168, 1, 9), rx: Rx::Tc };
    View { host, networks: [(vni(), NetworkView { network, local: Vec::new(), remote })].into() }
}

fn names(view: &View) -> Vec<&str> {
    view.networks[&vni()].remote.iter().map(|endpoint| endpoint.name.as_str()).collect()
}

#[test]
fn changes_replace_what_has_the_name() {
    let mut view = view(vec![endpoint("a", 2, 10), endpoint("b", 3, 10), endpoint("c", 4, 11)]);
    let moved = endpoint("a", 7, 11);
    let (old, new, same) =
        replace(&mut view, vec![change("a", Some(moved.clone())), change("x", None), change("d", None)]);
    assert_eq!((&old[&vni()], &new[&vni()], same), (&vec![endpoint("a", 2, 10)], &vec![moved], true));
    assert_eq!(names(&view), ["b", "c", "a"]);
    let (old, new, same) = replace(&mut view, vec![change("b", None)]);
    assert_eq!((old[&vni()].len(), new[&vni()].len()), (1, 0));
    assert!(!same, "192.168.1.10 has none any more");
}

#[test]
fn networks_that_are_not_ours_are_left_out() {
    let mut view = view(vec![endpoint("a", 2, 10)]);
    let other = RemoteChange { vni: Vni::new(1).unwrap(), name: "a".into(), endpoint: None };
    let (old, new, same) = replace(&mut view, vec![other]);
    assert!(old.is_empty() && new.is_empty() && same);
    assert_eq!(names(&view), ["a"]);
}
