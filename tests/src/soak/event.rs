//! Events that are injected into the hosts, and the losses that they may cause.

use std::{fmt, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::{
    DEADLINE,
    testbed::{BY_COMMAND, BY_FILE, HOSTS, STEADY, Testbed, XDP},
};
use crate::lab::NIC;

/// One event with its random parameters.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The daemon is stopped and started again `away` later; `change`: the cluster file changes in between.
    End { host: usize, how: End, away: Duration, change: bool },
    /// The daemon gets SIGSTOP, then SIGCONT.
    Hang { host: usize, time: Duration },
    /// The guest endpoint is added, or removed if it exists.
    Guest { host: usize },
    /// The network's `mtu` in the file changes; a value below 1280 ends IPv6 on the devices.
    NetworkMtu { mtu: Option<u16> },
    /// The MTU of the NICs changes.
    UnderlayMtu { mtu: u16 },
    /// Another tool changes the MTU of the network's bridge and VXLAN device.
    DeviceMtu { host: usize, mtu: u16 },
    /// The neighbours of the NIC are flushed.
    FlushNeighbours { host: usize },
    /// The NIC gets another MAC address: the next hop of the other hosts changes.
    NewMac { host: usize, last: u8 },
    /// The NIC is set down, then up.
    Flap { host: usize, time: Duration },
}

/// Signal that stops a daemon: SIGKILL or SIGTERM.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Kill,
    Terminate,
}

impl Event {
    /// Draws an event. The same seed gives the same events.
    pub(super) fn draw(rng: &mut Rng, deadline: Duration) -> Self {
        let host = rng.usize(1..=HOSTS);
        let file_host = rng.usize(1..=BY_FILE);
        let stoppable = [1, 2, BY_COMMAND][rng.usize(0..3)];
        let short = Duration::from_millis(rng.u64(0..=deadline.as_millis() as u64 / 3));
        let long = deadline + Duration::from_millis(rng.u64(1500..3000));
        let away = if rng.u8(0..4) == 0 { long } else { short };
        let change = rng.bool();
        match rng.u8(0..17) {
            0..3 => Self::End { host: stoppable, how: End::Kill, away, change },
            3..5 => Self::End { host: stoppable, how: End::Terminate, away, change },
            5..7 => Self::Hang { host, time: away },
            7..11 => Self::Guest { host },
            11 => Self::NetworkMtu { mtu: [None, Some(1370), Some(1270)][rng.usize(0..3)] },
            12 => Self::UnderlayMtu { mtu: [1500, 1420][rng.usize(0..2)] },
            13 => Self::DeviceMtu { host: file_host, mtu: [1400, 1200][rng.usize(0..2)] },
            14 => Self::FlushNeighbours { host: file_host },
            15 => Self::NewMac { host: file_host, last: rng.u8(..) },
            _ => Self::Flap { host: file_host, time: Duration::from_millis(rng.u64(100..1000)) },
        }
    }

    /// Name of the event's row in the report.
    pub(super) fn kind(&self, deadline: Duration) -> &'static str {
        let past = |time: &Duration| *time > deadline;
        match self {
            Self::End { how: End::Kill, away, .. } if past(away) => "`kill -9`, restart after the deadline",
            Self::End { how: End::Kill, .. } => "`kill -9`, restart within the deadline",
            Self::End { away, .. } if past(away) => "SIGTERM, restart after the deadline",
            Self::End { .. } => "SIGTERM, restart within the deadline",
            Self::Hang { time, .. } if past(time) => "SIGSTOP, SIGCONT after the deadline",
            Self::Hang { .. } => "SIGSTOP, SIGCONT within the deadline",
            Self::Guest { host: BY_COMMAND } => "endpoint added or removed by command",
            Self::Guest { .. } => "endpoint added or removed in the file",
            Self::NetworkMtu { .. } => "network MTU changed in the file",
            Self::UnderlayMtu { .. } => "NIC MTU changed",
            Self::DeviceMtu { .. } => "MTU of bridge and VXLAN device changed by another tool",
            Self::FlushNeighbours { .. } => "neighbours flushed",
            Self::NewMac { .. } => "NIC MAC address changed",
            Self::Flap { .. } => "NIC down, then up",
        }
    }

    /// The host whose packets may be lost from the event until all hosts have converged; `None`: no loss is allowed.
    pub(super) fn lossy_host(&self) -> Option<usize> {
        match self {
            Self::NewMac { host, .. } | Self::Flap { host, .. } => Some(*host),
            _ => None,
        }
    }

    /// The host whose packets may be reordered from the event until all hosts have converged; `None`: none may be.
    ///
    /// When the deadline of the host that receives by XDP has expired, its packets take the kernel path. The NAPI of a
    /// veth with an XDP program (`drivers/net/veth.c`) runs on any CPU, and the kernel queues decapsulated packets per
    /// CPU (`net/core/gro_cells.c`).
    pub(super) fn reordering_host(&self) -> Option<usize> {
        match self {
            Self::End { host: XDP, away: time, .. } | Self::Hang { host: XDP, time } if *time > DEADLINE => Some(XDP),
            _ => None,
        }
    }

    /// Injects the event.
    ///
    /// # Errors
    /// When the daemon does not restart, the deadline does not expire, or a command fails.
    pub(super) fn inject(&self, testbed: &mut Testbed) -> Result<()> {
        match self {
            Self::End { host, how, away, change } => {
                match how {
                    End::Kill => testbed.daemon_mut(*host).kill9()?,
                    End::Terminate => {
                        let status = testbed.daemon_mut(*host).sigterm()?;
                        ensure!(status.success(), "after SIGTERM the daemon ended with {status}");
                    }
                }
                // A stopped daemon takes no commands.
                if *change && *host != BY_COMMAND {
                    testbed.toggle_guest(*host)?;
                }
                sleep(*away);
                check_expired(testbed, *host, *away)?;
                testbed.daemon_mut(*host).restart()
            }
            Self::Hang { host, time } => {
                testbed.daemon_mut(*host).hang()?;
                sleep(*time);
                let expired = check_expired(testbed, *host, *time);
                testbed.daemon_mut(*host).resume()?;
                expired
            }
            Self::Guest { host } => {
                testbed.toggle_guest(*host)?;
                if testbed.has_guest(*host) {
                    testbed.wait_until_converged()?;
                    testbed.ping_from_guest(*host)?;
                }
                Ok(())
            }
            Self::NetworkMtu { mtu } => testbed.network_mtu(*mtu),
            Self::UnderlayMtu { mtu } => {
                let mtu = mtu.to_string();
                (1..=BY_FILE).try_for_each(|host| nic(testbed, host, &["mtu", &mtu]))
            }
            Self::DeviceMtu { host, mtu } => ["ovlbr4097", "ovlvx4097"].into_iter().try_for_each(|device| {
                let change = ["ip", "link", "set", device, "mtu", &mtu.to_string()];
                testbed.lab.host(*host).try_run(&change).map(drop)
            }),
            Self::FlushNeighbours { host } => {
                testbed.lab.host(*host).try_run(&["ip", "neigh", "flush", "dev", NIC]).map(drop)
            }
            Self::NewMac { host, last } => {
                nic(testbed, *host, &["address", &format!("02:00:00:00:{host:02x}:{last:02x}")])
            }
            Self::Flap { host, time } => {
                nic(testbed, *host, &["down"])?;
                sleep(*time);
                nic(testbed, *host, &["up"])
            }
        }
    }
}

/// `ip link set` on the NIC of a host.
fn nic(testbed: &Testbed, host: usize, words: &[&str]) -> Result<()> {
    testbed.lab.host(host).try_run(&[&["ip", "link", "set", NIC], words].concat()).map(drop)
}

/// Fails if the daemon was `away` for longer than the deadline and the programs still trust the maps.
fn check_expired(testbed: &Testbed, host: usize, away: Duration) -> Result<()> {
    if away > testbed.deadline {
        let status = testbed.daemon(host).overlay(&["status", "--json"])?;
        ensure!(
            status["heartbeat"]["expired"] == true,
            "the heartbeat deadline has not expired after {away:?}: {}",
            status["heartbeat"]
        );
    }
    Ok(())
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End { host, how, away, change } => {
                let how = if matches!(how, End::Kill) { "kill -9" } else { "SIGTERM" };
                let change = if *change && *host != BY_COMMAND { ", file changed in between" } else { "" };
                write!(f, "node0{host}: {how}, restart after {away:?}{change}")
            }
            Self::Hang { host, time } => write!(f, "node0{host}: SIGSTOP for {time:?}"),
            Self::Guest { host } => write!(f, "node0{host}: guest endpoint added or removed"),
            Self::NetworkMtu { mtu: Some(mtu) } => write!(f, "network MTU {mtu}"),
            Self::NetworkMtu { mtu: None } => write!(f, "network MTU unset"),
            Self::UnderlayMtu { mtu } => write!(f, "NIC MTU {mtu}"),
            Self::DeviceMtu { host, mtu } => write!(f, "node0{host}: MTU {mtu} of bridge and VXLAN device"),
            Self::FlushNeighbours { host } => write!(f, "node0{host}: neighbours flushed"),
            Self::NewMac { host, last } => write!(f, "node0{host}: MAC address 02:00:00:00:{host:02x}:{last:02x}"),
            Self::Flap { host, time } => write!(f, "node0{host}: {NIC} down for {time:?}"),
        }
    }
}

const _: () = assert!(STEADY != 1 && STEADY != 2 && STEADY != BY_COMMAND, "the daemon of STEADY is never stopped");
