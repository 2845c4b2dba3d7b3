//! The table `[discover]`.

use overlay_common::Vni;

use super::{assert_refused, parse};
use crate::model::discovery::{Selector, Settings};

fn settings(text: &str) -> Settings {
    parse(text, "cluster.toml").unwrap().discover.clone().expect("[discover]")
}

#[test]
fn discover_table_alone_is_a_configuration() {
    assert_eq!(settings("[discover]"), Settings::default());
    assert_eq!(parse(crate::sources::file::tests::NETWORK, "cluster.toml").unwrap().discover, None);
}

#[cfg(not(feature = "docker"))]
#[test]
fn docker_socket_is_refused_by_a_build_without_client() {
    let error = "2: discover: docker is set, and this build of overlay has no Docker client; remove the key, or use a build \
                 with the Cargo feature `docker`";
    assert_refused("[discover]\ndocker = true", &[error]);
    assert_eq!(settings("[discover]\ndocker = false"), Settings::default());
}

#[cfg(feature = "docker")]
#[test]
fn every_discover_key_is_parsed() {
    let text = "[discover]\nvxlan = [\"vxlan0\"]\ndocker = \"/run/d.sock\"\nnetns_dir = \"/run/netns\"\n\
                allow = [4097, \"my-overlay-network\"]\ndeny = [\"not-yet-there\"]";
    let (vni, name) = (Selector::Vni(Vni::new(4097).unwrap()), Selector::Name("my-overlay-network".into()));
    let expected = Settings {
        vxlan: Some(["vxlan0".into()].into()),
        docker: Some("/run/d.sock".into()),
        netns_dir: "/run/netns".into(),
        allow: [vni, name].into(),
        deny: [Selector::Name("not-yet-there".into())].into(),
    };
    assert_eq!(settings(text), expected);
    assert_eq!(settings("[discover]\nvxlan = \"auto\"\ndocker = true"), Settings::default());
    assert_eq!(settings("[discover]\ndocker = false").docker, None);
}

#[test]
fn discover_error_has_its_line() {
    assert_refused(
        "[discover]\nvxlan = \"vxlan0\"\ndocker = 1\nnetns_dir = \"netns\"\nallow = [0]\ndeny = 4097\nspeed = 1",
        &[
            "2: discover: vxlan \"vxlan0\" is not \"auto\"; write \"auto\", or a list of VXLAN devices like [\"vxlan0\"]",
            "3: discover: docker is a number; write true, false, or the path of Docker's socket",
            "4: discover: netns_dir \"netns\" is not an absolute path; write an absolute path like \
             \"/var/run/docker/netns\"",
            "5: discover: 0 is not a VNI: a VNI has 24 bits and is not 0, so use 1 to 16777215",
            "6: discover: deny is a number; write a list of VNIs and network names like [4097, \"my-overlay-network\"]",
            "7: discover: key \"speed\" is unknown; the known keys are vxlan, docker, netns_dir, allow, deny",
        ],
    );
    assert_refused(
        "discover = true",
        &["1: file: discover is not a table; write [discover], in one bracket, and its keys below"],
    );
}
