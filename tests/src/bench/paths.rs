//! The ways from one container to another: each a pair of hosts of its own, with the same addresses and MTU.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    cases::Wire,
    programs::{Attached, Device},
};
use crate::{
    lab::{
        Container, Flavour, Host, Lab, NIC, NetNs, docker_mac, kernel_vxlan,
        traffic::{Ping, ping},
    },
    world::World,
};

/// Of the network of the running example.
pub(super) const VNI: u32 = 4097;
/// Of every path: the underlay's less the outer headers.
const MTU: u16 = 1450;
/// The host side of a container's veth, and the collect-metadata device, where this file makes them.
const PORT: &str = "port";
const TUNNEL: &str = "vx0";

/// How a path carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Host to host, no container.
    BoundHost,
    /// Container to container by TC redirects, no encapsulation: what no overlay can beat.
    BoundRedirect,
    /// The kernel's VXLAN device and bridge with static entries, as Docker sets them up.
    Kernel,
    /// A VXLAN device in collect-metadata mode and `bpf_skb_set_tunnel_key`, the way Cilium tunnels.
    Metadata,
    /// Ours.
    Tc,
    /// Ours, receiving all but TCP by XDP.
    Xdp,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::BoundHost, Self::BoundRedirect, Self::Kernel, Self::Metadata, Self::Tc, Self::Xdp];

    /// Those of overlay: the ones that another build has, too.
    pub(super) const OVERLAY: [Self; 2] = [Self::Tc, Self::Xdp];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BoundHost => "bound-host",
            Self::BoundRedirect => "bound-redirect",
            Self::Kernel => "kernel",
            Self::Metadata => "metadata",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }
}

/// Where daemons find their configuration and pin their maps, and of which build they are.
pub(super) struct Workshop {
    pub(super) overlay: PathBuf,
    pub(super) pins: PathBuf,
    pub(super) files: PathBuf,
}

/// A path that carries packets until it is dropped.
pub(super) struct Path {
    pub(super) kind: Kind,
    _programs: Vec<Attached>,
    pub(super) world: World,
    /// The MAC address that the client's frames to the server have as their destination.
    pub(super) next_hop: [u8; 6],
}

impl Path {
    /// Sets it up, and sees that it carries packets both ways. `label` names its pins and files.
    pub(super) fn start(kind: Kind, label: &str, workshop: &Workshop) -> Result<Self> {
        let (config, pins) = (workshop.files.join(format!("{label}.toml")), workshop.pins.join(label));
        std::fs::create_dir_all(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
        let world = World::at(&workshop.overlay, Lab::builder(2).build()?, config, pins);
        let mut path = Self { kind, _programs: Vec::new(), world, next_hop: [0; 6] };
        match kind {
            Kind::BoundHost => path.address_the_hosts()?,
            Kind::BoundRedirect => path.redirect()?,
            Kind::Metadata => path.tunnel()?,
            Kind::Kernel => {
                let World { lab, cluster, .. } = &path.world;
                let network = &cluster.networks.first().context("the example has a network")?.name;
                for host in lab.hosts() {
                    kernel_vxlan(host, cluster, network, Flavour::Docker)?;
                }
                path.next_hop = Device::look(path.server(), "eth0")?.mac;
            }
            Kind::Tc | Kind::Xdp => {
                path.start_daemons()?;
                path.next_hop = Device::look(path.server(), "eth0")?.mac;
            }
        }
        path.see_that_it_carries()?;
        Ok(path)
    }

    fn address_the_hosts(&mut self) -> Result<()> {
        for host in self.world.lab.hosts() {
            let address = first(host)?.ip();
            host.try_script(&format!("ip addr add {address}/24 dev {NIC}\nip link set {NIC} mtu {MTU}"))?;
        }
        self.next_hop = Device::look(self.world.lab.host(2), NIC)?.mac;
        Ok(())
    }

    /// Frames leave the container with the other NIC's address, so that its host takes them for its own.
    fn redirect(&mut self) -> Result<()> {
        for [host, other] in self.directions() {
            plug(&host, &other, &Device::look(&other, NIC)?)?;
            let (nic, port) = (Device::look(&host, NIC)?.ifindex, Device::look(&host, PORT)?.ifindex);
            self._programs.push(Attached::new(&host, PORT, "bench_redirect", &[("BENCH_TARGET", nic)])?);
            self._programs.push(Attached::new(&host, NIC, "bench_peer", &[("BENCH_TARGET", port)])?);
        }
        self.next_hop = Device::look(self.world.lab.host(2), NIC)?.mac;
        Ok(())
    }

    /// The same with the other tunnel device's address.
    fn tunnel(&mut self) -> Result<()> {
        for host in self.world.lab.hosts() {
            host.try_script(&format!(
                "ip link add {TUNNEL} mtu {MTU} type vxlan external dstport 4789
                ip link set {TUNNEL} up"
            ))?;
        }
        for [host, other] in self.directions() {
            plug(&host, &other, &Device::look(&other, TUNNEL)?)?;
            let (tunnel, port) = (Device::look(&host, TUNNEL)?.ifindex, Device::look(&host, PORT)?.ifindex);
            let remote = u32::from(other.address());
            let globals = [("BENCH_TARGET", tunnel), ("BENCH_VNI", VNI), ("BENCH_REMOTE", remote)];
            self._programs.push(Attached::new(&host, PORT, "bench_tunnel", &globals)?);
            self._programs.push(Attached::new(&host, TUNNEL, "bench_peer", &[("BENCH_TARGET", port)])?);
        }
        self.next_hop = Device::look(self.world.lab.host(2), TUNNEL)?.mac;
        Ok(())
    }

    fn start_daemons(&mut self) -> Result<()> {
        self.world.receive_by(self.kind.name())?;
        self.world.start(1)?;
        self.world.start(2)?;
        self.world.wait_until_resolved()
    }

    /// Each host with the other one.
    fn directions(&self) -> [[Host; 2]; 2] {
        let [one, two] = [self.world.lab.host(1), self.world.lab.host(2)];
        [[one.clone(), two.clone()], [two.clone(), one.clone()]]
    }

    pub(super) fn client(&self) -> &NetNs {
        self.end(1)
    }

    pub(super) fn server(&self) -> &NetNs {
        self.end(2)
    }

    fn end(&self, number: usize) -> &NetNs {
        let host = self.world.lab.host(number);
        if self.kind == Kind::BoundHost { host } else { &host.containers()[0] }
    }

    pub(super) fn client_ip(&self) -> Ipv4Addr {
        self.world.lab.host(1).containers()[0].ip()
    }

    pub(super) fn server_ip(&self) -> Ipv4Addr {
        self.world.lab.host(2).containers()[0].ip()
    }

    pub(super) fn address(&self) -> IpAddr {
        self.server_ip().into()
    }

    /// A few packets both ways: neighbours and forwarding tables forget.
    pub(super) fn warm_up(&self) -> Result<()> {
        let plan = Ping { count: 3, interval: Duration::from_millis(1), ..Ping::default() };
        for (from, to) in [(self.client(), self.server_ip()), (self.server(), self.client_ip())] {
            let replies = ping(from, to.into(), plan)?;
            ensure!(replies.received > 0, "{}: {to} does not answer {}", self.kind.name(), from.name());
        }
        Ok(())
    }

    fn see_that_it_carries(&self) -> Result<()> {
        self.warm_up()?;
        let reasons: &[&str] = match self.kind {
            Kind::Tc => &["encap", "decap"],
            Kind::Xdp => &["encap", "decap_xdp"],
            _ => &[],
        };
        for (daemon, reason) in
            self.world.daemons().flat_map(|daemon| reasons.iter().map(move |reason| (daemon, reason)))
        {
            let packets = daemon.packets(reason)?;
            ensure!(packets > 0, "{}: pings went another way: no packet was counted as {reason}", self.kind.name());
        }
        Ok(())
    }

    /// Sets what the wire between the hosts carries.
    pub(super) fn set_wire(&self, wire: Wire) -> Result<()> {
        let on = |on| if on { "on" } else { "off" };
        let mut command = vec!["ethtool", "-K", NIC, "gro", on(wire == Wire::Merged)];
        if self.kind != Kind::Xdp {
            let features = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tso", "gso"];
            command.extend(features.into_iter().flat_map(|feature| [feature, on(wire == Wire::Whole)]));
        } // Without checksum offload there are no super-packets in any case.
        self.world.lab.hosts().iter().try_for_each(|host| host.try_run(&command).map(drop))
    }
}

fn first(host: &Host) -> Result<&Container> {
    host.containers().first().with_context(|| format!("{} has no container", host.name()))
}

/// A veth for the host's container, which finds the other host's container behind `next_hop`.
fn plug(host: &Host, other: &Host, next_hop: &Device) -> Result<()> {
    let (container, peer) = (first(host)?, first(other)?.ip());
    host.plug(PORT, container, &format!("{}/24", container.ip()), &docker_mac(container.ip()), MTU)?;
    let mac = next_hop.mac.map(|byte| format!("{byte:02x}")).join(":");
    container.try_script(&format!("ip neigh add {peer} lladdr {mac} dev eth0 nud permanent"))
}
