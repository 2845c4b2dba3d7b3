//! Differences of attached programs.

use std::path::PathBuf;

use super::Difference;
use crate::{
    apply::{bpf::Running, ledger::AttachPoint},
    model::Finding,
};

/// The difference at one hook. `device`: the interface's name, `netns`: its namespace unless it is the daemon's own. A
/// removed device has no difference. `last_error`: the daemon's last error when it attached the program.
#[must_use]
pub(crate) fn hook(
    hook: AttachPoint,
    running: &Running,
    (device, netns): (&str, Option<PathBuf>),
    last_error: Option<&str>,
) -> Option<Difference> {
    let attached = running.attached.as_ref()?;
    let runs = running.wanted.is_some_and(|wanted| attached.contains(&wanted));
    let cause = match running.pinned {
        pinned if pinned.is_some() && pinned == running.wanted && runs => return None,
        None if runs => "another program removed its pin; it stays attached while a process has the link open",
        None => "another program removed its pin or filter, which detached it",
        Some(_) if running.pinned == running.wanted => {
            "another program detached it or removed its qdisc, for example `bpftool link detach` or `tc filter del`"
        }
        Some(_) => "it was replaced by another program, or the daemon could not replace an earlier version",
    };
    let found = match (running.pinned, runs) {
        (None, true) => Some("the program, without a pin".to_owned()),
        (Some(other), _) if running.pinned != running.wanted => Some(format!("program {other}")),
        _ => None,
    };
    let wanted = match running.wanted {
        Some(number) => format!("program {number}"),
        None => "this version's program".to_owned(),
    };
    let object = format!("{} on {device}", hook.program());
    let finding = match last_error {
        Some(last_error) => Finding::from_reason(object, &format!("the daemon could not attach it: {last_error}")),
        None => Finding::new(object, cause, ""),
    };
    Some(Difference::new("hooks", Some(wanted), found, finding).inside(netns))
}
