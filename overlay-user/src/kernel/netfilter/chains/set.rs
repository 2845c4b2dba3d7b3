//! Elements of the sets of nftables.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::Verdict;
use crate::{
    kernel::netfilter::nft::{EVERYTHING, HEADER},
    sys::netlink::{
        attribute::{attribute, attributes, be32, text},
        raw::{Message, Raw},
    },
};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSET`.
const GET_SET: u16 = 0x0a0a;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM`.
const GET_ELEMENTS: u16 = 0x0a0d;

/// A set: family and name of its table, and its name.
pub(in crate::kernel) type Key = (u8, String, String);

/// The sets whose elements only change with the rules.
pub(in crate::kernel) type Sets = BTreeMap<Key, Vec<Element>>;

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Element {
    /// The smallest and the largest value; `None`: all values that no other element has.
    pub(super) values: Option<(Vec<u8>, Vec<u8>)>,
    /// Of a map of verdicts.
    pub(super) verdict: Option<Verdict>,
    /// It has a limit or another condition.
    pub(super) is_conditional: bool,
}

/// Reads these sets. Those that packets or time change are left out.
pub(super) fn sets(socket: &Raw, wanted: &BTreeSet<Key>) -> io::Result<Sets> {
    /// `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`.
    const CHANGING: u32 = 0x10 | 0x20;
    let mut sets = Sets::new();
    if wanted.is_empty() {
        return Ok(sets);
    }
    for (_, message) in socket.dump(GET_SET, &EVERYTHING)? {
        let Some((key, attributes)) = set_of(&message) else { continue };
        let flags = attribute(attributes, 3).and_then(be32).unwrap_or_default();
        if !wanted.contains(&key) || flags & CHANGING != 0 {
            continue;
        }
        let (family, table, name) = &key;
        let request = [&[*family, 0, 0, 0][..], &string(1, table), &string(2, name)].concat();
        let answers = socket.dump(GET_ELEMENTS, &request)?;
        sets.insert(key, elements(&answers, is_interval(flags)));
    }
    Ok(sets)
}

/// `NFT_SET_INTERVAL`, without concatenations, whose elements have both ends.
fn is_interval(flags: u32) -> bool {
    const INTERVAL: u32 = 0x4;
    const CONCATENATION: u32 = 0x80;
    flags & (INTERVAL | CONCATENATION) == INTERVAL
}

/// A set's key, and its attributes.
fn set_of(message: &[u8]) -> Option<(Key, &[u8])> {
    let attributes = message.get(HEADER..)?;
    let of = |kind| attribute(attributes, kind).map(text);
    Some(((*message.first()?, of(1)?, of(2)?), attributes))
}

/// An attribute with a string.
fn string(kind: u16, value: &str) -> Vec<u8> {
    let length = u16::try_from(4 + value.len() + 1).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value.as_bytes(), &[0]].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Reads `NFTA_SET_ELEM_LIST_ELEMENTS` of messages.
pub(in crate::kernel) fn elements(messages: &[Message], is_interval: bool) -> Vec<Element> {
    /// `NFT_SET_ELEM_INTERVAL_END`, `NFT_SET_ELEM_CATCHALL`.
    const END: u32 = 1;
    const CATCHALL: u32 = 2;
    let mut found = Vec::new();
    for (_, message) in messages {
        let list = message.get(HEADER..).and_then(|attributes| attribute(attributes, 3)).unwrap_or_default();
        for (_, element) in attributes(list) {
            let flags = attribute(element, 3).and_then(be32).unwrap_or_default();
            let value = |kind| attribute(element, kind).and_then(|data| attribute(data, 1)).map(<[u8]>::to_vec);
            let data = attribute(element, 2).unwrap_or_default();
            // `NFTA_SET_ELEM_EXPR` and `NFTA_SET_ELEM_EXPRESSIONS` with one element each.
            let one = attribute(element, 7).into_iter();
            let several = attribute(element, 11).into_iter().flat_map(attributes).map(|(_, expression)| expression);
            let is_counter =
                |expression: &[u8]| attribute(expression, 1).is_some_and(|name| text(name).as_str() == "counter");
            let has_condition = one.chain(several).any(|expression| !is_counter(expression));
            let verdict_data = attribute(data, 2);
            let verdict = verdict_data.and_then(verdict);
            // Another verdict is any.
            let is_conditional = has_condition || verdict_data.is_some() && verdict.is_none();
            let verdict = verdict.or_else(|| verdict_data.map(|_| Verdict::Drop));
            let is_end = flags & END != 0;
            let values = match (value(1), value(10)) {
                _ if flags & CATCHALL != 0 => None,
                (Some(first), last) => Some((first.clone(), last.unwrap_or(first))),
                (None, _) => continue,
            };
            found.push((is_end, Element { values, verdict, is_conditional }));
        }
    }
    if is_interval { intervals(found) } else { found.into_iter().map(|(_, element)| element).collect() }
}

/// Joins the elements of an interval set: each reaches to the value before the next one. Ends have no verdict.
fn intervals(mut found: Vec<(bool, Element)>) -> Vec<Element> {
    let first = |element: &Element| element.values.as_ref().map(|(first, _)| first.clone());
    found.sort_by_key(|(is_end, element)| (first(element), !is_end));
    let mut elements = Vec::new();
    let mut rest = found.into_iter().peekable();
    while let Some((is_end, mut element)) = rest.next() {
        if is_end {
            continue;
        }
        if let Some((first, last)) = &mut element.values {
            let next = rest.peek().and_then(|(_, next)| next.values.as_ref());
            *last = next.map_or_else(|| vec![u8::MAX; first.len()], |(next, _)| before(next));
        }
        elements.push(element);
    }
    elements
}

/// The number before a number in network order.
fn before(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    for byte in number.iter_mut().rev() {
        let borrows = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrows {
            break;
        }
    }
    number
}

/// `NFTA_DATA_VERDICT`: `NFTA_VERDICT_CODE` and `NFTA_VERDICT_CHAIN`.
pub(super) fn verdict(data: &[u8]) -> Option<Verdict> {
    let chain = || attribute(data, 2).map(text).unwrap_or_default();
    Some(match attribute(data, 1).and_then(be32).map(u32::cast_signed)? {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Next,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        _ => return None,
    })
}
