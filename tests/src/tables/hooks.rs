//! The attached programs of overlay, their constants and their maps.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use aya::{
    maps::{MapData, MapInfo},
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
};
use aya_obj::Object;
use overlay_common::{maps, names};
use overlay_user::testing::{apply::OBJECT, sys::ticks};
use serde_json::Value;

use super::{
    Expected, Facts,
    fields::entries,
    kernel::{Links, label, list, port_label, text},
};
use crate::lab::NIC;

/// The constants of the programs, in namespaces without shims.
const CONSTANTS: [&str; 6] = ["OVL_DECAP_IPV6", "OVL_FAULT", "OVL_NETNS_ID", "OVL_SHIM", "OVL_VNI", "OVL_INTERVAL"];

/// Time between two samples of a reason.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

impl Expected<'_> {
    /// The expected programs. No program is at TC egress.
    pub(super) fn wanted_hooks(&self) -> Facts {
        let mut hooks = Vec::new();
        for (network, local, _) in self.networks() {
            hooks.extend(
                local.iter().map(|endpoint| (port_label(network, endpoint), self.tc("ingress"), names::PORT_IN)),
            );
        }
        if !hooks.is_empty() {
            hooks.push((NIC.to_owned(), self.tc("ingress"), names::NIC_IN));
            if self.has_xdp() {
                hooks.push((NIC.to_owned(), "XDP driver".to_owned(), names::NIC_XDP));
            }
        }
        let mut facts = Facts::default();
        for (device, hook, program) in hooks {
            if self.clsact && program != names::NIC_XDP {
                facts.add(format!("hooks of {device}"), "qdisc", "clsact");
            }
            let object = format!("{program} at {hook} of {device}");
            facts.add(&object, "maps", "pinned");
            constants().into_iter().for_each(|(name, value)| facts.add(&object, name, value));
            facts.add(format!("hooks of {device}"), hook, program);
        }
        facts
    }

    fn tc(&self, direction: &str) -> String {
        format!("{} {direction}", if self.clsact { "clsact" } else { "TCX" })
    }

    /// The programs of overlay that are attached to any device.
    pub(super) fn found_hooks(&self, links: &Links) -> Result<Facts> {
        let mut attached = Vec::new();
        for link in &links.0 {
            let device = text(link, "ifname");
            for mode in link["xdp"]["attached"].as_array().into_iter().flatten() {
                let name = if mode["mode"] == 1 { "XDP driver" } else { "XDP generic" };
                attached.extend(by_id(&mode["prog"]["id"])?.map(|program| (label(link), name.to_owned(), program)));
            }
            for (direction, kind) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
                // Before Linux 6.6 there is no TCX.
                let tcx = self.host.enter(|| SchedClassifier::query_tcx(device, kind)).map(|(_, programs)| programs);
                let tcx = tcx.into_iter().flatten().map(|program| (label(link), format!("TCX {direction}"), program));
                attached.extend(tcx);
                for filter in list(self.host, &["tc", "-j", "filter", "show", "dev", device, direction])? {
                    let program = by_id(&filter["options"]["prog"]["id"])?;
                    attached.extend(program.map(|program| (label(link), format!("clsact {direction}"), program)));
                }
            }
        }
        let pinned = pinned(&self.pin_root)?;
        let mut facts = Facts::default();
        for (device, hook, program) in attached {
            let Some(name) = program.name_as_str().filter(|name| name.starts_with("ovl_")) else { continue };
            found_program(&mut facts, &format!("{name} at {hook} of {device}"), &program, &pinned)?;
            facts.add(format!("hooks of {device}"), hook, name);
        }
        if self.clsact {
            for qdisc in list(self.host, &["tc", "-j", "qdisc", "show"])? {
                let device = links.get(text(&qdisc, "dev")).map_or("", label);
                if qdisc["kind"] == "clsact" && facts.0.contains_key(&format!("hooks of {device}")) {
                    facts.add(format!("hooks of {device}"), "qdisc", "clsact");
                }
            }
        }
        Ok(facts)
    }
}

fn by_id(id: &Value) -> Result<Option<ProgramInfo>> {
    let Some(id) = id.as_u64() else { return Ok(None) };
    let mut programs = loaded_programs().filter_map(Result::ok);
    Ok(programs.find(|program| u64::from(program.id()) == id))
}

/// The ids of the pinned maps, by name.
fn pinned(pin_root: &Path) -> Result<BTreeMap<String, u32>> {
    maps::MAPS.iter().map(|map| Ok((map.name.to_owned(), MapInfo::from_pin(pin_root.join(map.name))?.id()))).collect()
}

/// Whether a program has the pinned maps, and its constants.
fn found_program(facts: &mut Facts, object: &str, program: &ProgramInfo, pinned: &BTreeMap<String, u32>) -> Result<()> {
    let mut others = Vec::new();
    for id in program.map_ids()?.unwrap_or_default() {
        let info = MapInfo::from_id(id)?;
        let name = info.name_as_str().unwrap_or_default();
        if name == ".rodata" {
            let values = entries::<u32, [u8; 4 * CONSTANTS.len()]>(MapData::from_id(id)?)?.get(&0, 0)?;
            let values =
                values.chunks_exact(4).map(|value| u32::from_ne_bytes([value[0], value[1], value[2], value[3]]));
            for (name, value) in order()?.into_iter().zip(values) {
                facts.add_once(object, name, value);
            }
        } else if name.starts_with("OVL_") && pinned.get(name) != Some(&id) {
            others.push(name.to_owned());
        }
    }
    let maps = if others.is_empty() { "pinned".to_owned() } else { format!("others: {}", others.join(" ")) };
    facts.add_once(object, "maps", maps);
    Ok(())
}

/// The expected constants.
fn constants() -> [(&'static str, u32); CONSTANTS.len()] {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut version = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (version.next().unwrap_or(0), version.next().unwrap_or(0));
    CONSTANTS.map(|name| {
        let value = match name {
            "OVL_DECAP_IPV6" => u32::from(version >= (6, 3)),
            "OVL_INTERVAL" => ticks(SAMPLE_INTERVAL) as u32,
            _ => 0,
        };
        (name, value)
    })
}

/// The constants in the order of the section: each is set to a number of its own in a copy of the object.
fn order() -> Result<Vec<&'static str>> {
    let mut object = Object::parse(OBJECT)?;
    let numbers: Vec<[u8; 4]> = (1..=CONSTANTS.len() as u32).map(u32::to_ne_bytes).collect();
    let values = CONSTANTS.iter().zip(&numbers).map(|(name, number)| (*name, (number.as_slice(), true)));
    object.patch_map_data(values.collect())?;
    let section = object.maps.get(".rodata").context("the object has no constants")?;
    let places = section.data().chunks_exact(4).map(|word| numbers.iter().position(|number| number == word));
    places.map(|place| Ok(CONSTANTS[place.context("a constant is not in the list")?])).collect()
}
