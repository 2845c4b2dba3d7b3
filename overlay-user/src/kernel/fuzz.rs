//! Fuzz target: arbitrary bytes as netlink messages.

use std::collections::BTreeMap;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::NetlinkPayload;

use super::{
    events, fdb, links,
    netfilter::{chains, legacy, nft},
    options, qdisc,
    route::Answer,
    rule::Rule,
    udp, xfrm,
};
use crate::sys::netlink::{
    NetlinkError,
    raw::{DumpAnswers, Message},
};

/// Types of rtnetlink messages (`RTM_NEWLINK`, …): supported ones, unsupported ones, and the error.
const TYPES: [u16; 12] = [16, 17, 20, 21, 24, 25, 28, 29, 36, 44, 88, 2];

/// Passes the bytes to the reader that the first byte selects. Every reader must terminate without a panic.
///
/// # Panics
/// If a reader panics.
pub fn netlink(bytes: &[u8]) {
    let Some((reader, body)) = bytes.split_first() else { return };
    match reader {
        b'r' => {
            let Some((kind, body)) = body.split_first() else { return };
            drop(options::deviations(body));
            route(&message(TYPES[usize::from(*kind) % TYPES.len()], body));
        }
        // Several messages, each with its own length and type.
        b'd' => {
            route(body);
            let _ = DumpAnswers::new(0, Vec::<Message>::new()).process(body);
        }
        b'c' | b'n' => {
            let message = [(0, body.to_vec())];
            let (chains, rules): (&[_], &[_]) = if *reader == b'c' { (&message, &[]) } else { (&[], &message) };
            drop((nft::read(chains, rules, |_, _| None), chains::nft::read(chains, rules, &BTreeMap::new())));
        }
        b'e' => {
            let message = [(0, body.to_vec())];
            drop([false, true].map(|is_interval| chains::set::elements(&message, is_interval)));
        }
        b's' => drop(nft::vnis_of(body, &[(0, body.to_vec())])),
        b'x' => drop((xfrm::mark(body), xfrm::blocks(body))),
        b'a' => drop(Answer::new(body)),
        b'u' => drop((Rule::new(body), udp::binding(body))),
        b'q' => drop(qdisc::qdisc(body)),
        b'l' => {
            let (info, entries) = body.split_at(body.len().min(INFO_LEN));
            drop(legacy::read(info, entries));
        }
        _ => {}
    }
}

/// Length of a `struct ipt_getinfo`.
const INFO_LEN: usize = 84;

/// A message with a valid header.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX).to_ne_bytes();
    [&length[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
}

/// Runs all readers of rtnetlink messages.
fn route(datagram: &[u8]) {
    events::events(datagram).for_each(drop);
    for message in crate::sys::netlink::connection::messages(datagram) {
        let message = match message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Error(error) => {
                let _ = NetlinkError::from(error).to_string();
                continue;
            }
            _ => continue,
        };
        let _ = (links::new_link(message.clone()), links::new_address(message.clone()));
        if let RouteNetlinkMessage::NewNeighbour(message) = message {
            let _ = fdb::entry(&message);
        }
    }
}
