//! Records a daemon's commands, pins, maps and log as text.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use overlay_tests::lab::{Daemon, NetNs, overlay_binary};
use serde_json::{Map, Value, json};

use crate::{files::Golden, normaliser::Normaliser};

/// Commands that show the loaded data path.
pub(crate) const SHOW: [&str; 6] = ["status", "fdb", "ports", "counters", "events", "audit"];

/// Prefix of `overlay`: a fixed hostname, and no variables of the caller that affect the output.
pub(crate) const ENVIRONMENT: [&str; 9] = [
    "unshare",
    "--uts",
    "env",
    "-u",
    "RUST_LOG",
    "sh",
    "-c",
    "echo golden >/proc/sys/kernel/hostname && exec \"$@\"",
    "sh",
];

/// Records the output of one daemon.
pub(crate) struct Recorder<'a> {
    pub(crate) golden: &'a mut Golden,
    pub(crate) normaliser: &'a Normaliser,
    pub(crate) host: &'a NetNs,
    pub(crate) daemon: &'a Daemon,
}

impl Recorder<'_> {
    /// Runs a command, and records the command line, its output and its exit code in `FILE.txt`.
    pub(crate) fn text(&mut self, file: &str, words: &[&str]) {
        let text = self.transcript(words);
        self.golden.file(&format!("{file}.txt"), &text);
    }

    /// Runs a command with `--json`, and records its standard output in `FILE.json`.
    pub(crate) fn json(&mut self, file: &str, words: &[&str]) {
        let text = self.document(words);
        self.golden.file(&format!("{file}.json"), &text);
    }

    /// Records text and JSON of a command that changes nothing.
    pub(crate) fn both(&mut self, file: &str, words: &[&str]) {
        self.text(file, words);
        self.json(file, words);
    }

    /// Records the commands of [`SHOW`], the pins, and all maps below `directory`.
    pub(crate) fn state(&mut self, directory: &str) {
        for (file, text) in self.files(directory) {
            self.golden.file(&file, &text);
        }
    }

    /// Compares the state with the one recorded in `directory`; the output of the command `except` is recorded below
    /// `other`.
    pub(crate) fn same_state(&mut self, directory: &str, except: &str, other: &str) {
        let excepted = format!("{directory}/{except}.");
        for (file, text) in self.files(directory) {
            if file.starts_with(&excepted) {
                self.golden.file(&file.replacen(directory, other, 1), &text);
            } else {
                self.golden.same_file(&file, &text);
            }
        }
    }

    fn files(&self, directory: &str) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for command in SHOW {
            files.push((format!("{directory}/{command}.txt"), self.transcript(&[command])));
            files.push((format!("{directory}/{command}.json"), self.document(&[command])));
        }
        let root = self.daemon.pin_root();
        files.push((format!("{directory}/pins"), self.normaliser.apply(&tree(root))));
        for map in files_in(root) {
            let name = map.file_name().unwrap().to_string_lossy().into_owned();
            files.push((format!("{directory}/maps/{name}.json"), self.normaliser.apply(&self.map(&map))));
        }
        files
    }

    fn transcript(&self, words: &[&str]) -> String {
        self.normaliser.apply(&transcript(words, &self.daemon.output(words).unwrap()))
    }

    fn document(&self, words: &[&str]) -> String {
        let output = self.daemon.output(&[words, &["--json"]].concat()).unwrap();
        self.normaliser.apply(&String::from_utf8(output.stdout).unwrap())
    }

    /// Attributes of a map from `bpftool`, and the entries that are not all zeros, sorted by key.
    fn map(&self, path: &Path) -> String {
        let bpftool = |verb| self.host.try_run(&["bpftool", "-j", "map", verb, "pinned", path.to_str().unwrap()]);
        let shown: Value = serde_json::from_str(&bpftool("show").unwrap()).unwrap();
        let keys = ["type", "name", "bytes_key", "bytes_value", "max_entries", "flags"];
        let header: Map<_, _> = keys.into_iter().map(|key| (key.to_owned(), shown[key].clone())).collect();
        let mut entries: Vec<_> = match bpftool("dump") {
            Ok(dump) => used_entries(&dump).iter().map(entry).collect(),
            Err(_) if shown["type"] == "ringbuf" => Vec::new(),
            Err(error) => panic!("{error:#}"),
        };
        entries.sort_by_key(|entry| sort_key(&entry["key"]));
        pretty(&json!({ "map": header, "entries": entries }))
    }
}

/// Entries of a dump whose value is not all zeros. Filtering before parsing skips thousands of unused array entries.
fn used_entries(dump: &str) -> Vec<Value> {
    const START: &str = "{\"key\":[\"0x";
    let starts: Vec<_> = dump.match_indices(START).map(|(at, _)| at).chain([dump.len()]).collect();
    let entries = starts.windows(2).map(|bounds| dump[bounds[0]..bounds[1]].trim_end_matches([',', ']', '\n', ' ']));
    let is_used = |entry: &&str| {
        let bytes = entry.split("\"formatted\"").next().unwrap_or_default();
        let value = bytes.split_once(']').unwrap().1;
        value.matches("\"0x").count() != value.matches("\"0x00\"").count()
    };
    entries.filter(is_used).map(|entry| serde_json::from_str(entry).unwrap()).collect()
}

/// A command line, its output, and its exit code unless it is 0.
pub(crate) fn transcript(words: &[&str], output: &Output) -> String {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
    let mut text = format!("$ overlay {}\n{}", words.join(" "), utf8(&output.stdout));
    if !output.stderr.is_empty() {
        text += &format!("--- standard error\n{}", utf8(&output.stderr));
    }
    if !output.status.success() {
        text += &format!("--- exit code {}\n", output.status.code().unwrap());
    }
    text
}

/// `overlay` on a host that has no [`Daemon`].
pub(crate) fn command(host: &NetNs, words: &[&str], pin_root: &Path) -> Command {
    let mut command = host.command(ENVIRONMENT[0]);
    command.args(&ENVIRONMENT[1..]).arg(overlay_binary().unwrap()).args(words).arg("--pin-root").arg(pin_root);
    command
}

/// Key and value of an entry, formatted if the map has BTF; per-CPU values are added.
fn entry(dumped: &Value) -> Value {
    let formatted = if dumped["formatted"].is_object() { &dumped["formatted"] } else { dumped };
    let mut value = match formatted["values"].as_array() {
        Some(values) => values.iter().map(|one| one["value"].clone()).reduce(|a, b| sum(&a, &b)).unwrap(),
        None => formatted["value"].clone(),
    };
    // The kernel chooses the MAC address of a VXLAN device.
    if let Some(mac) = value.get_mut("device_mac") {
        *mac = "<MAC>".into();
    }
    json!({ "key": formatted["key"], "value": value })
}

/// Adds two values field by field.
fn sum(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.iter().map(|(name, a)| (name.clone(), sum(a, &b[name]))).collect(),
        (Value::Number(a), Value::Number(b)) => (a.as_u64().unwrap() + b.as_u64().unwrap()).into(),
        _ => panic!("{a} and {b} are no counters"),
    }
}

/// Sorts numbers by value.
fn sort_key(key: &Value) -> Vec<u64> {
    match key {
        Value::Object(fields) => fields.values().flat_map(sort_key).collect(),
        Value::Array(elements) => elements.iter().flat_map(sort_key).collect(),
        Value::String(byte) => vec![u64::from_str_radix(byte.trim_start_matches("0x"), 16).unwrap()],
        other => vec![other.as_u64().unwrap()],
    }
}

/// JSON with one line for every value that fits.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text + "\n"
}

fn write(value: &Value, depth: usize, text: &mut String) {
    const LINE: usize = 110;
    let compact = spaced(value);
    let (open, close, parts): (_, _, Vec<(String, &Value)>) = match value {
        Value::Object(fields) => {
            ('{', '}', fields.iter().map(|(name, value)| (format!("\"{name}\": "), value)).collect())
        }
        Value::Array(elements) => ('[', ']', elements.iter().map(|value| (String::new(), value)).collect()),
        _ => ('\0', '\0', Vec::new()),
    };
    if parts.is_empty() || depth * 2 + compact.len() <= LINE {
        *text += &compact;
        return;
    }
    text.push(open);
    for (index, (name, value)) in parts.iter().enumerate() {
        *text += if index == 0 { "\n" } else { ",\n" };
        *text += &"  ".repeat(depth + 1);
        *text += name;
        write(value, depth + 1, text);
    }
    *text += &format!("\n{}{close}", "  ".repeat(depth));
}

/// JSON on one line, with spaces.
fn spaced(value: &Value) -> String {
    let list = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let parts = fields.iter().map(|(name, value)| format!("\"{name}\": {}", spaced(value)));
            format!("{{ {} }}", list(parts.collect()))
        }
        Value::Array(elements) => format!("[{}]", list(elements.iter().map(spaced).collect())),
        other => other.to_string(),
    }
}

/// The files of a directory, in order.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| !path.is_dir()).collect();
    files.sort();
    files
}

/// Every path below a directory, one a line.
fn tree(directory: &Path) -> String {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let lines = paths.iter().map(|path| {
        let below = if path.is_dir() { tree(path) } else { String::new() };
        format!("{}\n{below}", path.display())
    });
    lines.collect()
}

/// Suffixes of log lines that depend on timing: a step without changes, and the netlink library's message when the
/// daemon exits during a request.
const TIMING_DEPENDENT: [&str; 2] = ["the configuration is unchanged", "failed to forward response back to the handle"];

/// Splits a line with several changes into one line per change.
fn changes(line: &str) -> Vec<String> {
    const APPLIED: &str = "the new configuration is applied: ";
    match line.split_once(APPLIED) {
        Some((start, changes)) => changes.split(", ").map(|change| format!("{start}{APPLIED}{change}")).collect(),
        None => vec![line.to_owned()],
    }
}

/// The log of a daemon by phase.
#[derive(Default)]
pub(crate) struct Log {
    text: String,
    /// Bytes of the daemon's log that are in `text`.
    length: usize,
}

impl Log {
    /// Assigns new lines of a daemon's log to a phase.
    ///
    /// The number of changes in one step depends on timing. So equal consecutive lines are merged, and each change gets
    /// a separate line.
    pub(crate) fn phase(&mut self, title: &str, log: &str, normaliser: &Normaliser) {
        let new = normaliser.apply(&log[self.length..]);
        let is_stable = |line: &&str| !TIMING_DEPENDENT.iter().any(|end| line.ends_with(end));
        let mut lines: Vec<String> = new.lines().filter(is_stable).flat_map(changes).collect();
        lines.dedup();
        self.text += &format!("# {title}\n");
        self.text.extend(lines.iter().flat_map(|line| [line, "\n"]));
        self.length = log.len();
    }

    /// The command line and the log.
    pub(crate) fn text(&self, words: &[&str]) -> String {
        format!("$ overlay run {}\n{}", words.join(" "), self.text)
    }
}
