//! Every command when nothing is loaded, and invalid configurations.

use std::{fs, path::Path};

use overlay_tests::lab::{Lab, private_bpffs, private_directory};

use crate::{
    files::Golden,
    normaliser::Normaliser,
    recorder::{command, transcript},
    testbed::kernel_release,
};

/// Commands with their required arguments.
const COMMANDS: [&[&str]; 19] = [
    &["status"],
    &["fdb"],
    &["ports"],
    &["counters"],
    &["events"],
    &["audit"],
    &["down"],
    &["network", "create", "blue"],
    &["network", "ls"],
    &["network", "inspect", "blue"],
    &["network", "rm", "blue"],
    &["endpoint", "add", "blue", "one", "--netns", "/run/netns/one"],
    &["endpoint", "ls"],
    &["endpoint", "inspect", "blue", "one"],
    &["endpoint", "rm", "blue", "one"],
    &["node", "ls"],
    &["node", "rm", "node01"],
    &["run", "--store", "etcd"],
    &["run", "--etcd", "http://10.77.0.1:2379"],
];

/// Name and text of invalid configurations.
const CONFIGURATIONS: [(&str, &str); 4] = [
    ("syntax", "[[hosts]\nname = 1\n"),
    ("missing", ""),
    (
        "rules",
        r#"
rx = "radio"

[[hosts]]
name = "node01"
address = "192.168.1.9"

[[networks]]
name = "blue"
vni = 16777216
subnet = "10.0.1.0/24"
mtu = 100
"#,
    ),
    (
        "several",
        r#"
[[hosts]]
name = "node01"
address = "192.168.1.9"

[[hosts]]
name = "node02"
address = "192.168.1.9"

[[networks]]
name = "blue"
vni = 4097
subnet = "10.0.1.0/24"

[[networks]]
name = "green"
vni = 4097
subnet = "10.0.1.128/25"

[[endpoints]]
network = "blue"
name = "one"
ip = "10.0.2.2"
host = "node03"
"#,
    ),
];

#[test]
fn errors_match_golden_files() {
    let pins = private_bpffs().unwrap();
    let directory = private_directory().unwrap();
    let lab = Lab::two_hosts();
    let mut golden = Golden::new("refused");
    let mut normaliser = Normaliser::default();
    normaliser.add(kernel_release(), "<KERNEL>");
    let run = |words: &[&str]| {
        let output = command(lab.host(1), words, &pins.join("overlay")).output().unwrap();
        normaliser.apply(&transcript(words, &output))
    };
    for words in COMMANDS {
        let plain = words.iter().take_while(|word| !word.starts_with('-') && !word.starts_with('/'));
        let name = plain.copied().collect::<Vec<_>>().join("-");
        let name = if words[0] == "run" { format!("run.{}", words[1].trim_start_matches('-')) } else { name };
        golden.file(&format!("{name}.txt"), &run(words));
    }
    for (name, text) in CONFIGURATIONS {
        let path = directory.join(format!("{name}.toml"));
        if name != "missing" {
            fs::write(&path, text).unwrap();
        }
        for subcommand in ["check", "run"] {
            let words = [subcommand, "--config", path.to_str().unwrap()];
            golden.file(&format!("{subcommand}.{name}.txt"), &run(&words));
        }
        let words = ["check", "--config", path.to_str().unwrap(), "--json"];
        golden.file(&format!("check.{name}.json.txt"), &run(&words));
    }
    assert!(!Path::new("/sys/fs/bpf/overlay").exists());
    golden.finish();
}
