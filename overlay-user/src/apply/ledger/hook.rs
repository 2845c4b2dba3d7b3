//! The hooks of programs, and their names in the pin root.

use overlay_common::{maps::PortKey, names};

use crate::plan::hooks::End;

/// The hook of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachPoint {
    /// `ovl_nic_in` at TC ingress of the NIC with this interface index.
    Nic(u32),
    /// `ovl_nic_xdp` on the NIC with this interface index.
    Xdp(u32),
    /// `ovl_port_in` at TC ingress of this port.
    Port(PortKey),
    /// `ovl_port_check` at TC ingress of this port, ahead of all other programs.
    PortCheck(PortKey),
    /// `ovl_nic_check` at TC ingress of the device with this interface index, ahead of all other programs.
    NicCheck(u32),
    /// `ovl_shim_out` at TC ingress of the shim's end, in the daemon's namespace, with this interface index.
    ShimOut(u32),
    /// `ovl_shim_in` at TC ingress of this end of a shim, in a namespace with ports.
    ShimIn(PortKey),
}

impl AttachPoint {
    /// Name of the pinned link, or of the filter in the record: the kind, the netns id unless it is 0, and the
    /// interface index.
    #[must_use]
    pub fn name(self) -> String {
        let kind = match self {
            Self::Nic(_) => "nic",
            Self::Xdp(_) => "xdp",
            Self::Port(_) => "port",
            Self::PortCheck(_) => "portcheck",
            Self::NicCheck(_) => "niccheck",
            Self::ShimOut(_) => "shimout",
            Self::ShimIn(_) => "shimin",
        };
        format!("{kind}-{}", device_name(self.key()))
    }

    /// Reads [`Self::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (kind, device) = name.split_once('-')?;
        let key = parse_device(device)?;
        let host = (key.netns_id == 0).then_some(key.ifindex);
        match kind {
            "nic" => host.map(Self::Nic),
            "xdp" => host.map(Self::Xdp),
            "port" => Some(Self::Port(key)),
            "portcheck" => Some(Self::PortCheck(key)),
            "niccheck" => host.map(Self::NicCheck),
            "shimout" => host.map(Self::ShimOut),
            "shimin" => Some(Self::ShimIn(key)),
            _ => None,
        }
    }

    /// The program of the hook.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Nic(_) => names::NIC_IN,
            Self::Xdp(_) => names::NIC_XDP,
            Self::Port(_) => names::PORT_IN,
            Self::PortCheck(_) => names::PORT_CHECK,
            Self::NicCheck(_) => names::NIC_CHECK,
            Self::ShimOut(_) => names::SHIM_OUT,
            Self::ShimIn(_) => names::SHIM_IN,
        }
    }

    /// The end of the hook's chain at which the program belongs.
    #[must_use]
    pub(crate) const fn end(self) -> End {
        match self {
            Self::PortCheck(_) | Self::NicCheck(_) => End::First,
            Self::Nic(_) | Self::Xdp(_) | Self::Port(_) | Self::ShimOut(_) | Self::ShimIn(_) => End::Last,
        }
    }

    /// The interface, and its network namespace.
    #[must_use]
    pub const fn key(self) -> PortKey {
        match self {
            Self::Nic(ifindex) | Self::Xdp(ifindex) | Self::NicCheck(ifindex) | Self::ShimOut(ifindex) => {
                PortKey::host(ifindex)
            }
            Self::Port(key) | Self::PortCheck(key) | Self::ShimIn(key) => key,
        }
    }

    /// The interface.
    #[must_use]
    pub const fn ifindex(self) -> u32 {
        self.key().ifindex
    }

    /// The netns id of the interface; 0: the daemon's own namespace.
    #[must_use]
    pub const fn netns_id(self) -> u32 {
        self.key().netns_id
    }
}

/// An interface's part of a name: `5`, or `1-5` for netns id 1.
pub(crate) fn device_name(key: PortKey) -> String {
    match key {
        PortKey { netns_id: 0, ifindex } => ifindex.to_string(),
        PortKey { netns_id, ifindex } => format!("{netns_id}-{ifindex}"),
    }
}

/// Reads [`device_name`].
pub(crate) fn parse_device(device: &str) -> Option<PortKey> {
    let number = |text: &str| text.parse().ok();
    match device.split_once('-') {
        None => number(device).map(PortKey::host),
        Some((netns_id, ifindex)) => Some(PortKey { netns_id: number(netns_id)?, ifindex: number(ifindex)? }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hook_is_read_back_from_its_name() {
        let inside = PortKey { netns_id: 3, ifindex: 7 };
        for (hook, name) in [
            (AttachPoint::Nic(2), "nic-2"),
            (AttachPoint::Xdp(2), "xdp-2"),
            (AttachPoint::Port(PortKey::host(5)), "port-5"),
            (AttachPoint::Port(inside), "port-3-7"),
            (AttachPoint::PortCheck(PortKey::host(5)), "portcheck-5"),
            (AttachPoint::PortCheck(inside), "portcheck-3-7"),
            (AttachPoint::NicCheck(2), "niccheck-2"),
            (AttachPoint::ShimOut(9), "shimout-9"),
            (AttachPoint::ShimIn(inside), "shimin-3-7"),
        ] {
            assert_eq!(hook.name(), name);
            assert_eq!(AttachPoint::parse(name), Some(hook));
        }
        for name in ["port", "port-", "port-x", "port-1-2-3", "nic-1-2", "other-1"] {
            assert_eq!(AttachPoint::parse(name), None, "{name}");
        }
    }
}
