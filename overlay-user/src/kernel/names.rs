//! Names and owner mark of overlay's devices.

use overlay_common::Vni;

/// The owner mark: prefix of the `ifalias` of every device that overlay creates.
pub(crate) const ALIAS_PREFIX: &str = "overlay ";

/// Longest `ifalias`, in bytes (`IFALIASZ` less the terminating zero).
const ALIAS_MAX: usize = 255;

/// The bridge of a network: `ovlbr<vni>`, at most 13 characters.
#[must_use]
pub(crate) fn bridge_name(vni: Vni) -> String {
    format!("ovlbr{vni}")
}

/// The VXLAN device of a network: `ovlvx<vni>`, at most 13 characters.
#[must_use]
pub(crate) fn vxlan_name(vni: Vni) -> String {
    format!("ovlvx{vni}")
}

/// Both ends of the cross-netns veth (shim) of an external network: `ovlsh<vni>`, at most 13 characters.
#[must_use]
pub(crate) fn shim_name(vni: Vni) -> String {
    format!("ovlsh{vni}")
}

/// The host end of an endpoint's veth: `ovl` and the low 40 bits of FNV-1a 64 of `<network>/<endpoint>`, 13 characters.
///
/// An endpoint keeps its name across restarts. Two endpoints of one host have the same name with a probability of 2⁻⁴⁰;
/// [`crate::plan::host::desired`] refuses such a pair.
#[must_use]
pub fn veth_name(network: &str, endpoint: &str) -> String {
    let hash = [network, "/", endpoint]
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("ovl{:010x}", hash & 0xff_ffff_ffff)
}

/// The VNI in the name of a bridge; `None` for any other name.
pub(crate) fn vni_of_bridge(name: &str) -> Option<Vni> {
    vni_after("ovlbr", name)
}

/// The VNI in the name of a VXLAN device; `None` for any other name.
pub(crate) fn vni_of_vxlan(name: &str) -> Option<Vni> {
    vni_after("ovlvx", name)
}

fn vni_after(prefix: &str, name: &str) -> Option<Vni> {
    let vni = Vni::new(name.strip_prefix(prefix)?.parse().ok()?).ok()?;
    // Only the canonical form: not `ovlbr007`.
    (format!("{prefix}{vni}") == name).then_some(vni)
}

/// Whether the name has the form of [`veth_name`].
pub(crate) fn is_veth(name: &str) -> bool {
    name.strip_prefix("ovl").is_some_and(|hex| {
        hex.len() == 10 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

/// The `ifalias` of a network's devices, truncated to the kernel's limit.
pub(crate) fn network_alias(network: &str) -> String {
    truncate(format!("{ALIAS_PREFIX}{network}"))
}

/// The `ifalias` of an endpoint's veth, truncated to the kernel's limit.
pub(crate) fn endpoint_alias(network: &str, endpoint: &str) -> String {
    truncate(format!("{ALIAS_PREFIX}{network}/{endpoint}"))
}

fn truncate(mut alias: String) -> String {
    alias.truncate(alias.floor_char_boundary(ALIAS_MAX));
    alias
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_15_characters() {
        for name in [
            bridge_name(Vni::MAX),
            vxlan_name(Vni::MAX),
            shim_name(Vni::MAX),
            veth_name("my-overlay-network", "gindemo1"),
        ] {
            assert!(name.len() <= 15, "{name}");
        }
    }

    #[test]
    fn veth_name_is_stable() {
        assert_eq!(veth_name("my-overlay-network", "gindemo1"), "ovlaf7b97732a");
        assert!(is_veth("ovlaf7b97732a"));
        assert!(!is_veth(&shim_name(Vni::MAX)));
        assert!(!is_veth("ovlbr4097") && !is_veth("ovlaf7b97732") && !is_veth("ovlAF7B97732A"));
    }

    #[test]
    fn vni_is_read_from_device_names() {
        let vni = Vni::new(4097).expect("a VNI");
        assert_eq!(vni_of_bridge(&bridge_name(vni)), Some(vni));
        assert_eq!(vni_of_vxlan(&vxlan_name(vni)), Some(vni));
        for name in ["ovlbr", "ovlbr0", "ovlbr04097", "ovlbr+1", "ovlvx4097", "docker0"] {
            assert_eq!(vni_of_bridge(name), None, "{name}");
        }
    }

    #[test]
    fn long_aliases_are_truncated_between_characters() {
        let alias = endpoint_alias(&"ü".repeat(200), "a");
        assert!(alias.len() <= ALIAS_MAX && alias.starts_with(ALIAS_PREFIX));
    }
}
