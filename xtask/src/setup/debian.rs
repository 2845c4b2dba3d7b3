//! Programs from Debian's archive, and their installation.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::services::Stopped;
use super::{MIN_RUSTC, Purpose};
use crate::command::{check, output};
use crate::ebpf_toolchain;

/// A program that the build, the tests or the demo call, and its package. Other files have their full path as name.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// Without compiler and linker, which have built this program.
const PROGRAMS: [Program; 10] = [
    Program { name: "ip", package: "iproute2" },
    Program { name: "tc", package: "iproute2" },
    Program { name: "ping", package: "iputils-ping" },
    Program { name: "bpftool", package: "bpftool" },
    Program { name: "iperf3", package: "iperf3" },
    Program { name: "sockperf", package: "sockperf" },
    Program { name: "tcpdump", package: "tcpdump" },
    Program { name: "ethtool", package: "ethtool" },
    Program { name: "protoc", package: "protobuf-compiler" },
    Program { name: "/usr/include/google/protobuf/descriptor.proto", package: "libprotobuf-dev" },
];

/// Additional programs for a cluster.
const CLUSTER_PROGRAMS: [Program; 2] =
    [Program { name: "etcd", package: "etcd-server" }, Program { name: "etcdctl", package: "etcd-client" }];

/// Additional programs for the tests.
const TEST_PROGRAMS: [Program; 12] = [
    // Packet filters, because of which networks are not accelerated.
    Program { name: "nft", package: "nftables" },
    Program { name: "iptables-nft", package: "iptables" },
    Program { name: "iptables-legacy", package: "iptables" },
    Program { name: "sysctl", package: "procps" },
    // Docker Swarms.
    Program { name: "dockerd", package: "docker.io" },
    Program { name: "containerd", package: "containerd" },
    Program { name: "runc", package: "runc" },
    Program { name: "busybox", package: "busybox-static" },
    // The systemd service.
    Program { name: "systemd-analyze", package: "systemd" },
    // Virtual machines.
    Program { name: "cpio", package: "cpio" },
    Program { name: "depmod", package: "kmod" },
    Program { name: "xz", package: "xz-utils" },
];

/// Additional programs for the Docker of other Debian suites.
const DOCKER_PROGRAMS: [Program; 2] = [
    Program { name: "mmdebstrap", package: "mmdebstrap" },
    // Its older versions lack this key.
    Program { name: "/usr/share/keyrings/debian-archive-trixie-automatic.gpg", package: "debian-archive-keyring" },
];

/// Additional programs for the fuzzer: libFuzzer is C++.
const FUZZ_PROGRAMS: [Program; 1] = [Program { name: "c++", package: "g++" }];

/// Additional programs for the benchmark of applications: servers and load generators.
const APP_PROGRAMS: [Program; 7] = [
    Program { name: "redis-server", package: "redis-server" },
    Program { name: "redis-benchmark", package: "redis-tools" },
    Program { name: "memcached", package: "memcached" },
    Program { name: "nginx", package: "nginx" },
    Program { name: "wrk", package: "wrk" },
    Program { name: "ab", package: "apache2-utils" },
    // Not in `PATH`: several versions can be installed.
    Program { name: "/usr/lib/postgresql/15/bin/pgbench", package: "postgresql" },
];

/// Debian's newer Rust, packaged for its web browsers, with the source of the core library.
pub(crate) const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Duration of the update of the package lists.
pub(super) const UPDATE_SECONDS: u32 = 8;

/// Duration of the installation of a package: the compiler and Docker are large.
pub(super) fn seconds(package: &str) -> u32 {
    match package {
        "rustc-web" | "rust-web-src" | "docker.io" => 10,
        _ => 2,
    }
}

/// The programs for a purpose that are neither in `PATH` nor in the sbin directories, which a user's `PATH` does not
/// have.
pub(crate) fn missing_programs(purpose: Purpose) -> Vec<&'static Program> {
    let lists: &[&[_]] = match purpose {
        Purpose::Build => &[],
        Purpose::Run => &[&PROGRAMS],
        Purpose::Cluster => &[&PROGRAMS, &CLUSTER_PROGRAMS],
        Purpose::Test | Purpose::Mutants => &[&PROGRAMS, &CLUSTER_PROGRAMS, &TEST_PROGRAMS],
        Purpose::Docker | Purpose::Ci => &[&PROGRAMS, &CLUSTER_PROGRAMS, &TEST_PROGRAMS, &DOCKER_PROGRAMS],
        Purpose::Fuzz => &[&PROGRAMS, &CLUSTER_PROGRAMS, &TEST_PROGRAMS, &FUZZ_PROGRAMS],
        Purpose::Apps => &[&PROGRAMS, &APP_PROGRAMS],
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin".into(), "/sbin".into()]);
    let is_missing = |program: &&Program| !directories.iter().any(|dir| dir.join(program.name).is_file());
    lists.iter().copied().flatten().filter(is_missing).collect()
}

pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && Path::new("/usr/bin/apt-get").exists()
}

/// Whether setup can install packages: as root, on Debian. Setup does not use sudo.
pub(crate) fn can_install() -> bool {
    is_debian() && output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// Install packages from the machine's own package sources.
///
/// # Errors
///
/// When apt fails, when its sources have only an older Rust than the eBPF crate needs, or when a service would start.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    // One broken third-party source fails the whole update, but the packages may still be available.
    if let Err(error) = check(apt_get().arg("update")) {
        eprintln!("setup: {error:#}; continuing with the existing package lists");
    }
    if packages.contains(&COMPILER[0]) {
        check_compiler_candidate()?;
    }
    let services = Stopped::new(packages)?;
    // --no-remove: the compiler conflicts with Debian's older `rustc`, which other work may need.
    check(apt_get().args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages))
        .context("apt cannot install the packages; if they conflict with an installed package, remove that first")?;
    services.disable()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another apt, such as an unattended upgrade, may hold the lock.
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-q",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

fn check_compiler_candidate() -> Result<()> {
    let package = COMPILER[0];
    let policy = output(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    let version = candidate(&policy);
    ensure!(
        version.is_some_and(|version| ebpf_toolchain::at_least(version, MIN_RUSTC)),
        "package {package}: the package sources have version {}, and eBPF needs {MIN_RUSTC} or newer; add \
         `bookworm-security main` of Debian 12 to the sources, or install a nightly toolchain with rust-src in rustup",
        version.unwrap_or("none"),
    );
    Ok(())
}

/// The version in the `Candidate:` line of `apt-cache policy`.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_is_read_from_the_policy() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate(policy), Some("1.96.0+dfsg1-1~deb12u2"));
    }

    #[test]
    fn unavailable_package_has_no_candidate() {
        assert_eq!(candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
