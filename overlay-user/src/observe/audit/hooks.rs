//! The programs.

use std::path::PathBuf;

use super::Difference;
use crate::{
    apply::{bpf::Running, ledger::AttachPoint},
    model::Finding,
};

/// What is wrong at one hook. `device`: the interface's name, `netns`: its namespace where it is another. A device that has
/// gone has no hook, and nothing is wrong. `last_error`: why the daemon could not attach the program, if it could not.
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
        None if runs => "somebody else removed its pin; the program runs for as long as another has the link open",
        None => "somebody else removed its pin or filter, and with that the program",
        Some(_) if running.pinned == running.wanted => {
            "somebody else detached it (`bpftool link detach`, `tc filter del`), or removed its qdisc"
        }
        Some(_) => "another program was put in its place, or this daemon could not replace an earlier version's",
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
        Some(last_error) => Finding::of_reason(object, &format!("the daemon could not attach it: {last_error}")),
        None => Finding::new(object, cause, ""),
    };
    Some(Difference::new("hooks", Some(wanted), found, finding).inside(netns))
}
