use std::{path::Path, process::Command, time::Duration};

use tokio::{runtime::Builder, time::timeout};

use super::*;
use crate::sys::netns::in_new;

/// Needs root: changes rules in a network namespace of its own.
#[test]
fn changes_of_nftables_and_xfrm_policies_have_events() {
    let run = |command: &str| {
        let words: Vec<_> = command.split(' ').collect();
        assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{command}");
    };
    let follow = || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let netns = Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap();
            let wake = Arc::new(Notify::new());
            let watch = RuleWatch::open(&[NFTABLES, XFRM_POLICIES], &netns, &wake).unwrap();
            assert!(watch.take_changed() && !watch.take_changed(), "the first read");
            for command in [
                "ip xfrm policy add src 192.168.1.9 dst 192.168.1.10 dir out mark 5 tmpl proto esp",
                "ip xfrm policy setdefault out block",
                "ip xfrm policy flush",
                "nft add table ip docker-overlay",
                "nft add set ip docker-overlay encrypted-vnis { typeof @th,96,24; }",
                "nft add element ip docker-overlay encrypted-vnis { 0x001001 }",
                "nft delete element ip docker-overlay encrypted-vnis { 0x001001 }",
                "iptables-nft -t mangle -A OUTPUT -j MARK --set-mark 5",
            ] {
                run(command);
                // Nothing polls: without an event, the wait ends with the limit.
                let woken = timeout(Duration::from_secs(20), wake.notified()).await;
                assert!(woken.is_ok() && watch.take_changed(), "no event: {command}");
            }
        });
    };
    in_new(follow).unwrap();
}
