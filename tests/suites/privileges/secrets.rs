//! Keys and passwords with restricted permissions.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
};

use overlay_tests::lab::Etcd;

use crate::setup::{OVERLAY, Pair};

#[test]
fn etcd_secrets_readable_only_by_daemon_user_suffice() {
    let pair = Pair::new();
    let etcd = Etcd::start_tls().unwrap();
    for (number, host) in (1..).zip(pair.lab.hosts()) {
        etcd.join(host, number).unwrap();
    }
    for command in ["user add root:secret", "user grant-role root root", "auth enable"] {
        etcd.ctl(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let (certificate, key) = etcd.certificate("client").unwrap();
    let secrets = pair.directory.join("secrets");
    OVERLAY.directory(&secrets, 0o700).unwrap();
    let secret = |name: &str, text: &[u8]| {
        let path = secrets.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        chown(&path, Some(OVERLAY.uid), Some(OVERLAY.gid)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let host = pair.lab.host(1);
    let arguments: Vec<_> = [
        ["--store", "etcd"],
        ["--etcd", &etcd.urls().join(",")],
        ["--node", &host.address().to_string()],
        ["--node-name", host.name()],
        ["--etcd-ca", &secret("ca.pem", &fs::read(etcd.file("ca.pem")).unwrap())],
        ["--etcd-cert", &secret("cert.pem", &fs::read(certificate).unwrap())],
        ["--etcd-key", &secret("key.pem", &fs::read(key).unwrap())],
        ["--etcd-user", "root"],
        ["--etcd-password-file", &secret("password", b"secret\n")],
    ]
    .concat()
    .into_iter()
    .map(Into::into)
    .collect();
    let daemon = pair.start_with(1, &pair.user(1, &["net_admin", "bpf", "perfmon", "sys_admin"]), &arguments);
    daemon.overlay(&["network", "create", "blue", "--json"]).unwrap();
    assert!(etcd.ctl(&["--user", "root:secret", "get", "--prefix", "--keys-only", "/"]).unwrap().contains("blue"));
}
