//! `overlay run` with TLS and authentication of etcd.

use overlay_tests::lab::{Daemon, Etcd, Lab, overlay_binary, private_bpffs};

#[test]
fn daemon_with_wrong_etcd_password_is_refused() {
    let pins = private_bpffs().unwrap();
    let lab = Lab::builder(2).build().unwrap();
    let etcd = Etcd::start_tls().unwrap();
    for (number, host) in (1..).zip(lab.hosts()) {
        etcd.join(host, number).unwrap();
    }
    for command in ["user add root:secret", "user grant-role root root", "auth enable"] {
        etcd.ctl(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let (certificate, key) = etcd.certificate("client").unwrap();
    let arguments = |number: usize, password: &str| -> Vec<String> {
        let file = etcd.file(&format!("password-{password}"));
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let host = lab.host(number);
        [
            ["--store", "etcd"],
            ["--etcd", &etcd.urls().join(",")],
            ["--node", &host.address().to_string()],
            ["--node-name", host.name()],
            ["--etcd-ca", etcd.file("ca.pem").to_str().unwrap()],
            ["--etcd-cert", certificate.to_str().unwrap()],
            ["--etcd-key", key.to_str().unwrap()],
            ["--etcd-user", "root"],
            ["--etcd-password-file", file.to_str().unwrap()],
        ]
        .concat()
        .into_iter()
        .map(ToOwned::to_owned)
        .collect()
    };
    let overlay = overlay_binary().unwrap();
    let daemon = Daemon::start_with(&overlay, lab.host(1), &arguments(1, "secret"), &pins.join("one")).unwrap();
    daemon.overlay(&["network", "create", "blue", "--json"]).unwrap();
    let path = lab.host(1).containers()[0].path().to_str().unwrap().to_owned();
    let added = daemon.overlay(&["endpoint", "add", "blue", "one", "--netns", &path, "--json"]).unwrap();
    assert_eq!(added["ready"], true);
    let daemon = Daemon::start_with(&overlay, lab.host(2), &arguments(2, "wrong"), &pins.join("two"));
    let error = format!("{:#}", daemon.unwrap_err());
    assert!(error.contains("refuses") && error.contains("check user, password and role"), "{error}");
}
