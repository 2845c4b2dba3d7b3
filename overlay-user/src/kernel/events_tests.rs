use std::{process::Command, time::Duration};

use futures_util::StreamExt as _;
use tokio::{runtime::Builder, time::timeout};

use super::*;
use crate::sys::netns::in_new;

/// Needs root: changes policies in a network namespace of its own.
#[test]
fn changes_of_xfrm_policies_have_events() {
    let follow = || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut events = Host::events().unwrap();
            for arguments in [
                "policy add src 192.168.1.9 dst 192.168.1.10 dir out tmpl proto esp",
                "policy setdefault out block",
                "policy flush",
            ] {
                let status = Command::new("ip").arg("xfrm").args(arguments.split(' ')).status().unwrap();
                assert!(status.success(), "{arguments}");
                let event = timeout(Duration::from_secs(20), events.next()).await;
                assert_eq!(event, Ok(Some(HostEvent::Policies)), "{arguments}");
            }
        });
    };
    in_new(follow).unwrap();
}
