//! Reading one TOML table key by key, so that every error has its line and its object.

use std::{net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use overlay_common::{MacAddr, Vni, VniError};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError,
    error::{wrong_type, wrong_value},
};
use crate::{
    model::{
        Finding, Rx,
        rule::{self, Field, PartRef},
    },
    sys::netns,
};

/// Maps an offset in the text to its line.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect())
    }

    /// The line of the byte at `offset`, counted from 1.
    pub(super) fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

/// The lines of an object and its keys.
#[derive(Debug, Default)]
pub(super) struct KeyLines {
    header: usize,
    keys: Vec<(Field, usize)>,
}

impl KeyLines {
    /// The line of a key, or of the object if the key is absent.
    pub(super) fn line(&self, field: Field) -> usize {
        self.keys.iter().find(|(key, _)| *key == field).map_or(self.header, |(_, line)| *line)
    }
}

/// Converts a value to the type of a key.
type Read<T> = fn(Field, &DeValue<'_>) -> Result<T, Finding>;

/// One table, its known keys, and the findings.
pub(super) struct Reader<'t> {
    table: &'t DeTable<'t>,
    lines: &'t Lines,
    key_lines: KeyLines,
    known_keys: Vec<Field>,
    findings: Vec<(usize, Finding)>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(table: &'t DeTable<'t>, offset: usize, lines: &'t Lines) -> Self {
        let key_lines = KeyLines { header: lines.at(offset), keys: Vec::new() };
        Self { table, lines, key_lines, known_keys: Vec::new(), findings: Vec::new() }
    }

    /// The raw value.
    pub(super) fn value(&mut self, field: Field) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known_keys.push(field);
        let (key, value) = self.table.get_key_value(field.key())?;
        self.key_lines.keys.push((field, self.lines.at(key.span().start)));
        Some(value)
    }

    /// `None` when the key is absent or invalid; an invalid key is a finding.
    pub(super) fn optional<T>(&mut self, field: Field, read: Read<T>) -> Option<T> {
        let value = self.value(field)?;
        read(field, value.get_ref()).map_err(|finding| self.fail(field, finding)).ok()
    }

    /// `None` when the key is absent or invalid; both are findings.
    pub(super) fn required<T>(&mut self, field: Field, read: Read<T>, example: &'static str) -> Option<T> {
        if !self.table.contains_key(field.key()) {
            let remedy = format!("add a line like {field} = {example}");
            self.fail(field, Finding::unnamed(format!("{field} is missing"), remedy));
        }
        self.optional(field, read)
    }

    pub(super) fn fail(&mut self, field: Field, finding: Finding) {
        self.findings.push((self.key_lines.line(field), finding));
    }

    /// Reports unknown keys and moves all findings to `errors`.
    pub(super) fn finish(mut self, object: &str, errors: &mut Vec<ConfigError>) -> KeyLines {
        for key in self.table.keys().filter(|key| !self.known_keys.iter().any(|field| field.key() == key.get_ref())) {
            let known = self.known_keys.iter().map(|field| field.key()).collect::<Vec<_>>().join(", ");
            let problem = format!("key {:?} is unknown", key.get_ref());
            let finding = Finding::unnamed(problem, format!("the known keys are {known}"));
            self.findings.push((self.lines.at(key.span().start), finding));
        }
        let errors_of =
            |(line, finding): (usize, Finding)| ConfigError { line: Some(line), finding: finding.about(object) };
        errors.extend(self.findings.into_iter().map(errors_of));
        self.key_lines
    }
}

/// The lines of all objects in the file, in the order of the cluster's lists.
#[derive(Debug, Default)]
pub(super) struct ObjectLines {
    pub(super) file: KeyLines,
    pub(super) hosts: Vec<KeyLines>,
    pub(super) networks: Vec<KeyLines>,
    pub(super) endpoints: Vec<KeyLines>,
}

impl ObjectLines {
    pub(super) fn line(&self, object: PartRef, field: Field) -> Option<usize> {
        let key_lines = match object {
            PartRef::Cluster => Some(&self.file),
            PartRef::Host(index) => self.hosts.get(index),
            PartRef::Network(index) => self.networks.get(index),
            PartRef::Endpoint(index) => self.endpoints.get(index),
        };
        key_lines.map(|lines| lines.line(field))
    }
}

pub(super) fn type_error(field: Field, value: &DeValue<'_>, wanted: &str) -> Finding {
    let found = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    wrong_type(field, found, wanted)
}

pub(super) fn str<'v>(field: Field, value: &'v DeValue<'_>, wanted: &str) -> Result<&'v str, Finding> {
    value.as_str().ok_or_else(|| type_error(field, value, wanted))
}

pub(super) fn number(field: Field, value: &DeValue<'_>, wanted: &str) -> Result<i64, Finding> {
    let DeValue::Integer(integer) = value else { return Err(type_error(field, value, wanted)) };
    i64::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| wrong_value(field, format_args!("{integer}"), "in any range", wanted))
}

fn parsed<T: std::str::FromStr>((field, value): (Field, &DeValue<'_>), what: &str, wanted: &str) -> Result<T, Finding> {
    let text = str(field, value, wanted)?;
    text.parse().map_err(|_| wrong_value(field, text, what, wanted))
}

pub(super) fn text(field: Field, value: &DeValue<'_>) -> Result<String, Finding> {
    str(field, value, "a string in quotes").map(str::to_owned)
}

pub(super) fn boolean(field: Field, value: &DeValue<'_>) -> Result<bool, Finding> {
    value.as_bool().ok_or_else(|| type_error(field, value, "true or false, without quotes"))
}

pub(super) fn address(field: Field, value: &DeValue<'_>) -> Result<Ipv4Addr, Finding> {
    parsed((field, value), "an IPv4 address", "one like \"10.0.1.2\"")
}

pub(super) fn subnet(field: Field, value: &DeValue<'_>) -> Result<Ipv4Net, Finding> {
    parsed((field, value), "an IPv4 subnet", "one like \"10.0.1.0/24\"")
}

pub(super) fn mac(field: Field, value: &DeValue<'_>) -> Result<MacAddr, Finding> {
    parsed((field, value), "a MAC address", "six pairs of hexadecimal digits like \"02:42:0a:00:01:02\"")
}

pub(super) fn rx(field: Field, value: &DeValue<'_>) -> Result<Rx, Finding> {
    let wanted = "\"tc\" or \"xdp\"";
    match str(field, value, wanted)? {
        "tc" => Ok(Rx::Tc),
        "xdp" => Ok(Rx::Xdp),
        other => Err(wrong_value(field, other, "a receive hook", wanted)),
    }
}

pub(super) fn vni(field: Field, value: &DeValue<'_>) -> Result<Vni, Finding> {
    let wanted = "a number from 1 to 16777215";
    let no_vni = |error: VniError| Finding::unnamed(error.to_string(), "");
    let number = number(field, value, wanted)?;
    match (u64::try_from(number), u32::try_from(number)) {
        (_, Ok(number)) => Vni::new(number).map_err(no_vni),
        (Ok(number), _) => Err(no_vni(VniError(number))),
        _ => Err(wrong_value(field, number, "a VNI", wanted)),
    }
}

pub(super) fn mtu(field: Field, value: &DeValue<'_>) -> Result<u16, Finding> {
    let mtu = number(field, value, "a number of bytes")?;
    u16::try_from(mtu).map_err(|_| rule::mtu(mtu))
}

pub(super) fn port(field: Field, value: &DeValue<'_>) -> Result<u16, Finding> {
    let port = number(field, value, "a UDP port number, without quotes")?;
    u16::try_from(port).map_err(|_| rule::port(port))
}

pub(super) fn fdb_size(field: Field, value: &DeValue<'_>) -> Result<u32, Finding> {
    let size = number(field, value, "a number of entries")?;
    u32::try_from(size).map_err(|_| rule::fdb_size(size))
}

/// [`netns::parse`].
pub(super) fn netns(field: Field, value: &DeValue<'_>) -> Result<PathBuf, Finding> {
    let text = str(field, value, netns::SYNTAX)?;
    netns::parse(text).ok_or_else(|| wrong_value(field, text, "a network namespace", netns::SYNTAX))
}
