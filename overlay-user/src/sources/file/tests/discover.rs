//! The table `[mirror]`.

use overlay_common::Vni;

use super::{assert_refused, parse};
use crate::model::mirror::{Selector, Settings};

fn settings(text: &str) -> Settings {
    parse(text, "cluster.toml").unwrap().mirror.clone().expect("[mirror]")
}

#[test]
fn mirror_alone_is_a_configuration() {
    assert_eq!(settings("[mirror]"), Settings::default());
    assert_eq!(parse(crate::sources::file::tests::NETWORK, "cluster.toml").unwrap().mirror, None);
}

#[cfg(not(feature = "docker"))]
#[test]
fn docker_socket_is_refused_by_a_build_without_client() {
    let error = "2: mirror: docker is set, and this build of overlay has no Docker client; remove the key, or use a build \
                 with the Cargo feature `docker`";
    assert_refused("[mirror]\ndocker = true", &[error]);
    assert_eq!(settings("[mirror]\ndocker = false"), Settings::default());
}

#[cfg(feature = "docker")]
#[test]
fn every_key_is_taken_over() {
    let text = "[mirror]\nvxlan = [\"vxlan0\"]\ndocker = \"/run/d.sock\"\nnetns_dir = \"/run/netns\"\n\
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
    assert_eq!(settings("[mirror]\nvxlan = \"auto\"\ndocker = true"), Settings::default());
    assert_eq!(settings("[mirror]\ndocker = false").docker, None);
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    assert_refused(
        "[mirror]\nvxlan = \"vxlan0\"\ndocker = 1\nnetns_dir = \"netns\"\nallow = [0]\ndeny = 4097\nspeed = 1",
        &[
            "2: mirror: vxlan \"vxlan0\" is not \"auto\"; write \"auto\", or a list of VXLAN devices like [\"vxlan0\"]",
            "3: mirror: docker is a number; write true, false, or the path of Docker's socket",
            "4: mirror: netns_dir \"netns\" is not an absolute path; write an absolute path like \
             \"/var/run/docker/netns\"",
            "5: mirror: 0 is not a VNI: a VNI has 24 bits and is not 0, so use 1 to 16777215",
            "6: mirror: deny is a number; write a list of VNIs and networks' names like [4097, \"my-overlay-network\"]",
            "7: mirror: key \"speed\" is unknown; the keys here are vxlan, docker, netns_dir, allow, deny",
        ],
    );
    assert_refused(
        "mirror = true",
        &["1: file: mirror is not a table; write [mirror], in one bracket, and its keys below"],
    );
}
