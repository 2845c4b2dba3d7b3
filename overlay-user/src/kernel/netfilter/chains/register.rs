//! Registers of nftables: what a rule has loaded, and tests of it.

use std::collections::BTreeMap;

use super::{Field, Interface, Test};
use crate::sys::netlink::attribute::text;

/// Bytes of a register; an interface's name has several.
pub(super) const REGISTER: usize = 4;
/// `IFNAMSIZ`.
const NAME: usize = 16;

/// The content of a register.
#[derive(Clone, Debug)]
pub(super) enum Loaded {
    Input,
    Output,
    Number(Number),
    Constant(u32),
    Other,
}

/// A number in a register: `field & mask ^ xor`.
#[derive(Clone, Debug)]
pub(super) struct Number {
    pub(super) field: Field,
    /// Bytes in the register. Those of an address are the first of four.
    length: usize,
    pub(super) mask: u32,
    pub(super) xor: u32,
    /// The bytes are in network order.
    is_network_order: bool,
}

/// The registers, by their first byte divided by [`REGISTER`].
#[derive(Debug, Default)]
pub(super) struct Registers(BTreeMap<u32, Loaded>);

impl Registers {
    /// `NFT_REG_1` to `NFT_REG_4` have 16 bytes, those from `NFT_REG32_00` on have four.
    fn index(register: u32) -> u32 {
        match register {
            1..=4 => 4 * (register - 1),
            _ => register.saturating_sub(8),
        }
    }

    pub(super) fn load(&mut self, register: Option<u32>, loaded: Loaded) {
        if let Some(register) = register {
            self.0.insert(Self::index(register), loaded);
        }
    }

    /// Loads the next register, too.
    pub(super) fn load_both(&mut self, register: Option<u32>, [first, second]: [Loaded; 2]) {
        self.load(register, first);
        if let Some(register) = register {
            self.0.insert(Self::index(register) + 1, second);
        }
    }

    pub(super) fn get(&self, register: Option<u32>) -> Loaded {
        register.and_then(|register| self.0.get(&Self::index(register)).cloned()).unwrap_or(Loaded::Other)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The tests of values that begin in this register: it and those after it are in these ranges. Shorter values are
    /// compared with the first bytes.
    pub(super) fn tests(&self, register: Option<u32>, first: &[u8], last: &[u8]) -> Vec<Test> {
        let Some(mut index) = register.map(Self::index) else { return vec![Test::Other] };
        let (mut tests, mut at) = (Vec::new(), 0);
        while at < first.len() && first.len() == last.len() {
            // The length of anything else is not known.
            let Some(loaded @ (Loaded::Input | Loaded::Output | Loaded::Number(_))) = self.0.get(&index) else {
                return vec![Test::Other];
            };
            let length = loaded.length().min(first.len() - at);
            tests.push(loaded.test(&first[at..at + length], &last[at..at + length]));
            let registers = length.div_ceil(REGISTER);
            at += registers * REGISTER;
            index += u32::try_from(registers).unwrap_or(1);
        }
        if tests.is_empty() { vec![Test::Other] } else { tests }
    }
}

impl Number {
    /// A field whose bytes are in host order, or with `is_network_order` in network order.
    pub(super) const fn new(field: Field, length: usize, is_network_order: bool) -> Self {
        Self { field, length, mask: u32::MAX, xor: 0, is_network_order }
    }

    /// Reads a number as the register has it.
    fn number(&self, bytes: &[u8]) -> Option<u32> {
        let bytes = bytes.get(..self.length)?;
        let is_address = matches!(self.field, Field::Source | Field::Destination);
        let mut four = [0; REGISTER];
        if is_address || !self.is_network_order && cfg!(target_endian = "little") {
            four[..bytes.len()].copy_from_slice(bytes);
        } else {
            four[REGISTER - bytes.len()..].copy_from_slice(bytes);
        }
        Some(if self.is_network_order { u32::from_be_bytes(four) } else { u32::from_ne_bytes(four) })
    }

    /// Bits of the field that the register has.
    fn width(&self) -> u32 {
        match self.field {
            Field::Source | Field::Destination => u32::MAX << (32 - 8 * self.length),
            _ => u32::MAX,
        }
    }
}

impl Loaded {
    fn length(&self) -> usize {
        match self {
            Self::Input | Self::Output => NAME,
            Self::Number(number) => number.length,
            Self::Constant(_) | Self::Other => REGISTER,
        }
    }

    /// Whether the value is in a range.
    fn test(&self, first: &[u8], last: &[u8]) -> Test {
        let name = || {
            let interface = Interface { name: text(first), is_prefix: !first.contains(&0), is_inverted: false };
            (first == last).then_some(interface)
        };
        let test = match self {
            Self::Input => name().map(Test::Input),
            Self::Output => name().map(Test::Output),
            Self::Number(number) => number.test(first, last),
            Self::Constant(_) | Self::Other => None,
        };
        test.unwrap_or(Test::Other)
    }

    /// `NFTA_BITWISE_MASK` and `NFTA_BITWISE_XOR` of a register.
    pub(super) fn masked(self, mask: &[u8], xor: &[u8]) -> Self {
        let Self::Number(number) = self else { return Self::Other };
        match (number.number(mask), number.number(xor)) {
            (Some(mask), Some(xor)) => {
                Self::Number(Number { mask: number.mask & mask, xor: number.xor & mask ^ xor, ..number })
            }
            _ => Self::Other,
        }
    }

    /// The bytes of numbers in the other order, for ranges.
    pub(super) fn swapped(self, size: usize) -> Self {
        match self {
            Self::Number(number) if number.length == size => {
                Self::Number(Number { is_network_order: !number.is_network_order, ..number })
            }
            _ => Self::Other,
        }
    }
}

impl Number {
    fn test(&self, first: &[u8], last: &[u8]) -> Option<Test> {
        let (first, last) = (self.number(first)?, self.number(last)?);
        let mask = self.mask & self.width();
        if first == last {
            // With other bits than those of the mask, no packet has the value.
            let value = first ^ self.xor;
            return Some(Test::Number { field: self.field, mask, first: value, last: value, is_inverted: false });
        }
        (mask == u32::MAX && self.xor == 0).then(|| Test::range(self.field, first, last, false))
    }
}
