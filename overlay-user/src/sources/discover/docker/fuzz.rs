//! Arbitrary bytes as Docker's answers.

use super::{DockerState, ENCRYPTED_OPTION, Network, SystemInfo, read};
use crate::{
    model::discovery::Settings,
    sources::discover::{decide, example},
};

/// The first line is the list of networks, the second one Docker's `/info`. An encrypted network is never accelerated.
///
/// # Panics
/// When an encrypted network is accelerated.
pub fn docker(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let Ok(networks) = serde_json::from_slice::<Vec<Network>>(next()) else { return };
    let info = serde_json::from_slice::<SystemInfo>(next()).unwrap_or_default();
    let is_encrypted = |network: &Network| {
        let options = network.options.as_ref();
        network.id.as_deref() == Some(example::ID)
            && network.name.is_some()
            && network.driver.as_deref() == Some("overlay")
            && options.is_some_and(|options| options.contains_key(ENCRYPTED_OPTION))
    };
    // With duplicate identifiers, which Docker does not produce, the first network of the VNI is used.
    let all_encrypted = networks.len() == 1 && networks.iter().all(is_encrypted);
    let (networks, node_address) = read(networks, info);
    let of_another_vni =
        networks.iter().any(|network| !network.vnis.is_empty() && !network.vnis.contains(&example::VNI));
    let mut facts = example::facts();
    facts.docker = DockerState { enabled: true, networks, node_address, ..DockerState::default() };
    let found = decide(&facts, &Settings::default());
    assert_eq!(found.networks.len(), 1);
    for external in found.networks.iter().filter_map(|network| network.kind.external()) {
        let refusal = external.refusal.as_ref();
        assert!(refusal.is_some() || !all_encrypted || of_another_vni, "an encrypted network is accelerated");
        assert!(refusal.is_none_or(|refusal| !refusal.finding.remedy.is_empty()), "{refusal:?}");
    }
}
