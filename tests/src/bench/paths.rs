//! The paths between two containers: each with its own pair of hosts, with the same addresses and MTU.

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
    testbed::{Testbed, prepare_xdp},
};

/// VNI of the running example.
pub(super) const VNI: u32 = 4097;
/// MTU of every path: that of the underlay minus the outer headers.
const MTU: u16 = 1450;
/// Names of the host side of a container's veth and of the collect-metadata device.
const PORT: &str = "port";
const TUNNEL: &str = "vx0";

/// How a path carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Host to host, without containers.
    BoundHost,
    /// Container to container by TC redirects, without encapsulation: the upper bound of an overlay network.
    BoundRedirect,
    /// The kernel's VXLAN device and bridge with static entries, as Docker sets them up.
    Kernel,
    /// A VXLAN device in collect-metadata mode with `bpf_skb_set_tunnel_key`, as in Cilium.
    Metadata,
    /// The same without the offloads that `xdp` has to turn off on a veth.
    KernelNoOffload,
    /// overlay with `rx = "tc"`.
    Tc,
    /// overlay with `rx = "xdp"`: all packets but TCP are received by XDP.
    Xdp,
    /// overlay with `rx = "tc"` and a strict network, for the run time of its checks.
    Strict,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::BoundHost,
        Self::BoundRedirect,
        Self::Kernel,
        Self::KernelNoOffload,
        Self::Metadata,
        Self::Tc,
        Self::Xdp,
    ];

    /// The paths of overlay.
    pub(super) const OVERLAY: [Self; 2] = [Self::Tc, Self::Xdp];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BoundHost => "bound-host",
            Self::BoundRedirect => "bound-redirect",
            Self::Kernel => "kernel",
            Self::KernelNoOffload => "kernel-tx-off",
            Self::Metadata => "metadata",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Strict => "strict",
        }
    }

    /// The kernel's path with the same offloads, for the paths that must not be slower.
    pub(super) const fn kernel(self) -> Option<Self> {
        match self {
            Self::Tc => Some(Self::Kernel),
            Self::Xdp => Some(Self::KernelNoOffload),
            _ => None,
        }
    }

    /// Whether the NICs have the checksum offload that super-packets need.
    fn has_offload(self) -> bool {
        !matches!(self, Self::Xdp | Self::KernelNoOffload)
    }
}

/// The binary of the daemons and the directories of their pins and configuration files.
pub(super) struct Environment {
    pub(super) overlay: PathBuf,
    pub(super) pins: PathBuf,
    pub(super) files: PathBuf,
}

/// A configured path. Dropping it removes its hosts.
pub(super) struct Path {
    pub(super) kind: Kind,
    _programs: Vec<Attached>,
    pub(super) testbed: Testbed,
    /// Destination MAC address of the client's frames to the server.
    pub(super) next_hop: [u8; 6],
}

impl Path {
    /// Sets the path up and checks it with packets both ways. `label` names its pins and files.
    pub(super) fn start(kind: Kind, label: &str, environment: &Environment) -> Result<Self> {
        let (config, pins) = (environment.files.join(format!("{label}.toml")), environment.pins.join(label));
        std::fs::create_dir_all(&pins).with_context(|| format!("cannot create {}", pins.display()))?;
        let testbed = Testbed::at(&environment.overlay, Lab::builder(2).build()?, config, pins);
        let mut path = Self { kind, _programs: Vec::new(), testbed, next_hop: [0; 6] };
        match kind {
            Kind::BoundHost => path.configure_hosts()?,
            Kind::BoundRedirect => path.configure_redirects()?,
            Kind::Metadata => path.configure_tunnels()?,
            Kind::Kernel | Kind::KernelNoOffload => {
                let Testbed { lab, cluster, .. } = &path.testbed;
                let network = &cluster.networks.first().context("the example has a network")?.name;
                for host in lab.hosts() {
                    kernel_vxlan(host, cluster, network, Flavour::Docker)?;
                    if !kind.has_offload() {
                        prepare_xdp(host)?;
                    }
                }
                path.next_hop = Device::read(path.server(), "eth0")?.mac;
            }
            Kind::Tc | Kind::Xdp | Kind::Strict => {
                path.start_daemons()?;
                path.next_hop = Device::read(path.server(), "eth0")?.mac;
            }
        }
        path.check_traffic()?;
        Ok(path)
    }

    fn configure_hosts(&mut self) -> Result<()> {
        for host in self.testbed.lab.hosts() {
            let address = first(host)?.ip();
            host.try_script(&format!("ip addr add {address}/24 dev {NIC}\nip link set {NIC} mtu {MTU}"))?;
        }
        self.next_hop = Device::read(self.testbed.lab.host(2), NIC)?.mac;
        Ok(())
    }

    /// Frames leave the container with the MAC address of the other host's NIC, so that the other host accepts them.
    fn configure_redirects(&mut self) -> Result<()> {
        for [host, other] in self.directions() {
            plug(&host, &other, &Device::read(&other, NIC)?)?;
            let (nic, port) = (Device::read(&host, NIC)?.ifindex, Device::read(&host, PORT)?.ifindex);
            self._programs.push(Attached::new(&host, PORT, "bench_redirect", &[("BENCH_TARGET", nic)])?);
            self._programs.push(Attached::new(&host, NIC, "bench_peer", &[("BENCH_TARGET", port)])?);
        }
        self.next_hop = Device::read(self.testbed.lab.host(2), NIC)?.mac;
        Ok(())
    }

    /// Frames leave the container with the MAC address of the other host's tunnel device.
    fn configure_tunnels(&mut self) -> Result<()> {
        for host in self.testbed.lab.hosts() {
            host.try_script(&format!(
                "ip link add {TUNNEL} mtu {MTU} type vxlan external dstport 4789
                ip link set {TUNNEL} up"
            ))?;
        }
        for [host, other] in self.directions() {
            plug(&host, &other, &Device::read(&other, TUNNEL)?)?;
            let (tunnel, port) = (Device::read(&host, TUNNEL)?.ifindex, Device::read(&host, PORT)?.ifindex);
            let remote = u32::from(other.address());
            let globals = [("BENCH_TARGET", tunnel), ("BENCH_VNI", VNI), ("BENCH_REMOTE", remote)];
            self._programs.push(Attached::new(&host, PORT, "bench_tunnel", &globals)?);
            self._programs.push(Attached::new(&host, TUNNEL, "bench_peer", &[("BENCH_TARGET", port)])?);
        }
        self.next_hop = Device::read(self.testbed.lab.host(2), TUNNEL)?.mac;
        Ok(())
    }

    fn start_daemons(&mut self) -> Result<()> {
        self.testbed.receive_by(if self.kind == Kind::Xdp { "xdp" } else { "tc" })?;
        for network in &mut self.testbed.cluster.networks {
            network.strict = self.kind == Kind::Strict;
        }
        self.testbed.start(1)?;
        self.testbed.start(2)?;
        self.testbed.wait_until_resolved()
    }

    /// Each host with its peer.
    fn directions(&self) -> [[Host; 2]; 2] {
        let [one, two] = [self.testbed.lab.host(1), self.testbed.lab.host(2)];
        [[one.clone(), two.clone()], [two.clone(), one.clone()]]
    }

    pub(super) fn client(&self) -> &NetNs {
        self.end(1)
    }

    pub(super) fn server(&self) -> &NetNs {
        self.end(2)
    }

    fn end(&self, number: usize) -> &NetNs {
        let host = self.testbed.lab.host(number);
        if self.kind == Kind::BoundHost { host } else { &host.containers()[0] }
    }

    pub(super) fn client_ip(&self) -> Ipv4Addr {
        self.testbed.lab.host(1).containers()[0].ip()
    }

    pub(super) fn server_ip(&self) -> Ipv4Addr {
        self.testbed.lab.host(2).containers()[0].ip()
    }

    pub(super) fn address(&self) -> IpAddr {
        self.server_ip().into()
    }

    /// Sends a few packets both ways: entries of neighbour and forwarding tables expire.
    pub(super) fn warm_up(&self) -> Result<()> {
        let plan = Ping { count: 3, interval: Duration::from_millis(1), ..Ping::default() };
        for (from, to) in [(self.client(), self.server_ip()), (self.server(), self.client_ip())] {
            let replies = ping(from, to.into(), plan)?;
            ensure!(replies.received > 0, "{}: {to} does not answer {}", self.kind.name(), from.name());
        }
        Ok(())
    }

    fn check_traffic(&self) -> Result<()> {
        self.warm_up()?;
        let reasons: &[&str] = match self.kind {
            Kind::Tc | Kind::Strict => &["encap", "decap"],
            Kind::Xdp => &["encap", "decap_xdp"],
            _ => &[],
        };
        for (daemon, reason) in
            self.testbed.daemons().flat_map(|daemon| reasons.iter().map(move |reason| (daemon, reason)))
        {
            let packets = daemon.packets(reason)?;
            ensure!(packets > 0, "{}: pings did not use the path: no packet was counted as {reason}", self.kind.name());
        }
        Ok(())
    }

    /// Sets the offloads of the NICs.
    pub(super) fn set_wire(&self, wire: Wire) -> Result<()> {
        let on = |on| if on { "on" } else { "off" };
        // Without checksum offload there are no super-packets on the wire, as on one between NICs: these merge.
        let merges = wire == Wire::Merged || wire == Wire::SuperPackets && !self.kind.has_offload();
        let mut command = vec!["ethtool", "-K", NIC, "gro", on(merges)];
        if self.kind.has_offload() {
            let features = ["tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tso", "gso"];
            command.extend(features.into_iter().flat_map(|feature| [feature, on(wire == Wire::SuperPackets)]));
        }
        self.testbed.lab.hosts().iter().try_for_each(|host| host.try_run(&command).map(drop))
    }
}

fn first(host: &Host) -> Result<&Container> {
    host.containers().first().with_context(|| format!("{} has no container", host.name()))
}

/// Connects the host's container with a veth; its neighbour entry of the other container has the MAC address
/// `next_hop`.
fn plug(host: &Host, other: &Host, next_hop: &Device) -> Result<()> {
    let (container, peer) = (first(host)?, first(other)?.ip());
    host.plug(PORT, container, &format!("{}/24", container.ip()), &docker_mac(container.ip()), MTU)?;
    let mac = next_hop.mac.map(|byte| format!("{byte:02x}")).join(":");
    container.try_script(&format!("ip neigh add {peer} lladdr {mac} dev eth0 nud permanent"))
}
