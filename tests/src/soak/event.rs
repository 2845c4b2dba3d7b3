//! What is done to the hosts, and what that may cost.

use std::{fmt, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::world::{BY_COMMAND, BY_FILE, HOSTS, STEADY, World};
use crate::lab::NIC;

/// One event, with all that was drawn for it.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The daemon is ended and started again.
    End { host: usize, how: End, away: Duration, change: bool },
    /// SIGSTOP, SIGCONT.
    Hang { host: usize, time: Duration },
    /// An endpoint comes, or goes.
    Guest { host: usize },
    /// The network's `mtu` in the file.
    NetworkMtu { mtu: Option<u16> },
    /// The MTU of the NICs.
    UnderlayMtu { mtu: u16 },
    /// The host forgets its neighbours.
    Forget { host: usize },
    /// The NIC gets another MAC address: for the others the next hop changes.
    NewMac { host: usize, last: u8 },
    /// The NIC goes down and comes up.
    Flap { host: usize, time: Duration },
}

/// How a daemon ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Kill,
    Terminate,
}

impl Event {
    /// Draws one. The same numbers make the same events.
    pub(super) fn draw(rng: &mut Rng, deadline: Duration) -> Self {
        let host = rng.usize(1..=HOSTS);
        let file_host = rng.usize(1..=BY_FILE);
        // All but the steady one.
        let mortal = [1, 2, BY_COMMAND][rng.usize(0..3)];
        let short = Duration::from_millis(rng.u64(0..=deadline.as_millis() as u64 / 3));
        let long = deadline + Duration::from_millis(rng.u64(1500..3000));
        let away = if rng.u8(0..4) == 0 { long } else { short };
        let change = rng.bool();
        match rng.u8(0..16) {
            0..3 => Self::End { host: mortal, how: End::Kill, away, change },
            3..5 => Self::End { host: mortal, how: End::Terminate, away, change },
            5..7 => Self::Hang { host, time: away },
            7..11 => Self::Guest { host },
            11 => Self::NetworkMtu { mtu: [None, Some(1370), Some(1300)][rng.usize(0..3)] },
            12 => Self::UnderlayMtu { mtu: [1500, 1420][rng.usize(0..2)] },
            13 => Self::Forget { host: file_host },
            14 => Self::NewMac { host: file_host, last: rng.u8(..) },
            _ => Self::Flap { host: file_host, time: Duration::from_millis(rng.u64(100..1000)) },
        }
    }

    /// The row of the report.
    pub(super) fn kind(&self, deadline: Duration) -> &'static str {
        let past = |time: &Duration| *time > deadline;
        match self {
            Self::End { how: End::Kill, away, .. } if past(away) => "`kill -9`, away past the deadline",
            Self::End { how: End::Kill, .. } => "`kill -9`, started again at once or within the deadline",
            Self::End { away, .. } if past(away) => "SIGTERM, away past the deadline",
            Self::End { .. } => "SIGTERM, started again at once or within the deadline",
            Self::Hang { time, .. } if past(time) => "hangs (SIGSTOP) past the deadline",
            Self::Hang { .. } => "hangs (SIGSTOP) for less than the deadline",
            Self::Guest { host: BY_COMMAND } => "endpoint added or removed by command",
            Self::Guest { .. } => "endpoint added or removed in the file",
            Self::NetworkMtu { .. } => "the network's MTU changed in the file",
            Self::UnderlayMtu { .. } => "the NICs' MTU changed",
            Self::Forget { .. } => "neighbours of a host flushed",
            Self::NewMac { .. } => "a NIC gets another MAC address",
            Self::Flap { .. } => "a NIC goes down and comes up",
        }
    }

    /// The host whose packets may be lost, from the event on until all tables are true again; `None`: no packet may.
    pub(super) fn breaks(&self) -> Option<usize> {
        match self {
            Self::NewMac { host, .. } | Self::Flap { host, .. } => Some(*host),
            _ => None,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// What did not go as it has to: a daemon that does not come back, a deadline that does not expire.
    pub(super) fn inject(&self, world: &mut World) -> Result<()> {
        match self {
            Self::End { host, how, away, change } => {
                match how {
                    End::Kill => world.daemon_mut(*host).kill9()?,
                    End::Terminate => {
                        let status = world.daemon_mut(*host).sigterm()?;
                        ensure!(status.success(), "after SIGTERM the daemon ended with {status}");
                    }
                }
                // Nobody there who could be told by command.
                if *change && *host != BY_COMMAND {
                    world.toggle_guest(*host)?;
                }
                sleep(*away);
                has_expired(world, *host, *away)?;
                world.daemon_mut(*host).restart()
            }
            Self::Hang { host, time } => {
                world.daemon_mut(*host).hang()?;
                sleep(*time);
                let expired = has_expired(world, *host, *time);
                world.daemon_mut(*host).wake()?;
                expired
            }
            Self::Guest { host } => {
                world.toggle_guest(*host)?;
                if world.has_guest(*host) {
                    world.settle()?;
                    world.guest_is_served(*host)?;
                }
                Ok(())
            }
            Self::NetworkMtu { mtu } => world.network_mtu(*mtu),
            Self::UnderlayMtu { mtu } => {
                let mtu = mtu.to_string();
                (1..=BY_FILE).try_for_each(|host| nic(world, host, &["mtu", &mtu]))
            }
            Self::Forget { host } => world.lab.host(*host).try_run(&["ip", "neigh", "flush", "dev", NIC]).map(drop),
            Self::NewMac { host, last } => {
                nic(world, *host, &["address", &format!("02:00:00:00:{host:02x}:{last:02x}")])
            }
            Self::Flap { host, time } => {
                nic(world, *host, &["down"])?;
                sleep(*time);
                nic(world, *host, &["up"])
            }
        }
    }
}

fn nic(world: &World, host: usize, what: &[&str]) -> Result<()> {
    world.lab.host(host).try_run(&[&["ip", "link", "set", NIC], what].concat()).map(drop)
}

/// After a daemon was away for longer than the deadline the programs must not trust the tables.
fn has_expired(world: &World, host: usize, away: Duration) -> Result<()> {
    if away > world.deadline {
        let status = world.daemon(host).overlay(&["status", "--json"])?;
        ensure!(
            status["heartbeat"]["expired"] == true,
            "the deadline is not over after {away:?}: {}",
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
                let change = if *change && *host != BY_COMMAND { ", the file is changed meanwhile" } else { "" };
                write!(f, "node0{host}: {how}, back after {away:?}{change}")
            }
            Self::Hang { host, time } => write!(f, "node0{host}: hangs for {time:?}"),
            Self::Guest { host } => write!(f, "node0{host}: the guest comes or goes"),
            Self::NetworkMtu { mtu } => write!(f, "the network's MTU: {mtu:?}"),
            Self::UnderlayMtu { mtu } => write!(f, "the NICs' MTU: {mtu}"),
            Self::Forget { host } => write!(f, "node0{host}: neighbours flushed"),
            Self::NewMac { host, last } => write!(f, "node0{host}: MAC address 02:00:00:00:{host:02x}:{last:02x}"),
            Self::Flap { host, time } => write!(f, "node0{host}: {NIC} down for {time:?}"),
        }
    }
}

const _: () = assert!(STEADY != 1 && STEADY != 2 && STEADY != BY_COMMAND, "its daemon must not be ended");
