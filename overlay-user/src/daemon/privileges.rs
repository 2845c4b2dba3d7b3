//! Capabilities of the process: checked before anything is changed, and dropped where they are not needed.

use caps::{CapSet, Capability, CapsHashSet};

use super::error::PreflightError;

/// Capabilities that every daemon needs, with their purpose.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_NET_ADMIN, "links, FDB, neighbours and hooks"),
    (Capability::CAP_PERFMON, "programs that read packets"),
    (Capability::CAP_BPF, "maps and programs"),
];

/// Capability for entering network namespaces.
const NAMESPACES: (Capability, &str) = (Capability::CAP_SYS_ADMIN, "containers' network namespaces");

/// Capabilities that some configurations need; kept if they are granted, because the configuration can change.
const KEPT: [Capability; 3] = [
    Capability::CAP_SYS_ADMIN,
    // Namespaces below `/proc/PID` of other users' processes.
    Capability::CAP_SYS_PTRACE,
    // Docker's namespaces are in a directory of root; files with keys and passwords may belong to another user.
    Capability::CAP_DAC_READ_SEARCH,
];

/// The network namespaces that the daemon works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The daemon's own.
    Host,
    /// Those of containers as well.
    Containers,
}

/// Checks that the calling thread has the capabilities that the daemon needs in these network namespaces.
///
/// # Errors
/// [`PreflightError::Privileges`] with the missing capabilities and their purpose.
pub(crate) fn check(reach: Reach) -> Result<(), PreflightError> {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    let missing = missing(&effective, reach);
    let list: Vec<_> = missing.iter().map(|(capability, use_)| format!("{capability} ({use_})")).collect();
    if list.is_empty() { Ok(()) } else { Err(PreflightError::Privileges(list.join(", "))) }
}

fn missing(effective: &CapsHashSet, reach: Reach) -> Vec<(Capability, &'static str)> {
    let has = |capability| {
        // CAP_BPF and CAP_PERFMON were split from CAP_SYS_ADMIN in Linux 5.8, which still includes them.
        let split = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        effective.contains(&capability) || split && effective.contains(&Capability::CAP_SYS_ADMIN)
    };
    let wanted = NEEDED.into_iter().chain((reach == Reach::Containers).then_some(NAMESPACES));
    wanted.filter(|(capability, _)| !has(*capability)).collect()
}

/// Permanently drops every capability that no daemon needs, and sets `no_new_privs`. Must be called before other
/// threads are started, because capabilities are per thread. `socket_group`: the group of the socket, which needs
/// CAP_CHOWN.
///
/// # Errors
/// [`PreflightError::Drop`], if the kernel or a seccomp filter refuses.
pub(crate) fn reduce(socket_group: Option<&str>) -> Result<(), PreflightError> {
    let failed = |error: &dyn std::fmt::Display| PreflightError::Drop(error.to_string());
    let kept: CapsHashSet = NEEDED
        .into_iter()
        .map(|(capability, _)| capability)
        .chain(KEPT)
        .chain(socket_group.map(|_| Capability::CAP_CHOWN))
        .collect();
    let permitted = caps::read(None, CapSet::Permitted).map_err(|error| failed(&error))?;
    // The bounding set limits executed programs. Without CAP_SETPCAP, `no_new_privs` alone does.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).map_err(|error| failed(&error))?;
        for &capability in bounding.difference(&kept) {
            caps::drop(None, CapSet::Bounding, capability).map_err(|error| failed(&error))?;
        }
    }
    let kept: CapsHashSet = kept.intersection(&permitted).copied().collect();
    let nothing = CapsHashSet::new();
    // The daemon executes no programs, so no capability has to be inherited.
    for (set, value) in [
        (CapSet::Ambient, &nothing),
        (CapSet::Inheritable, &nothing),
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
    ] {
        caps::set(None, set, value).map_err(|error| failed(&error))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(effective: &[Capability], reach: Reach) -> Vec<Capability> {
        missing(&effective.iter().copied().collect(), reach).into_iter().map(|(capability, _)| capability).collect()
    }

    #[test]
    fn check_names_exactly_the_missing_capabilities() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        let three = [CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF];
        assert_eq!(named(&three, Reach::Host), []);
        assert_eq!(named(&three, Reach::Containers), [CAP_SYS_ADMIN]);
        assert_eq!(named(&[CAP_NET_ADMIN, CAP_SYS_ADMIN], Reach::Containers), []);
        assert_eq!(named(&[CAP_SYS_ADMIN], Reach::Host), [CAP_NET_ADMIN]);
        for (index, capability) in three.into_iter().enumerate() {
            let mut others = three.to_vec();
            others.remove(index);
            assert_eq!(named(&others, Reach::Host), [capability]);
        }
    }
}
