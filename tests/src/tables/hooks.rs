//! The attached programs of overlay, their constants and their maps.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result};
use aya::{
    maps::{MapData, MapInfo},
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
};
use aya_obj::Object;
use overlay_common::{maps, names};
use overlay_user::testing::{apply::object, sys::ticks};
use serde_json::Value;

use super::{
    Expected, Facts,
    external::Sandbox,
    fields::entries,
    kernel::{Place, label, list, port_label, text},
    plan::Plan,
};
use crate::{
    check::decapsulates_ipv6,
    lab::{NIC, NetNs},
};

/// The constants of the programs.
const CONSTANTS: [&str; 6] = ["OVL_DECAP_IPV6", "OVL_FAULT", "OVL_NETNS_ID", "OVL_SHIM", "OVL_VNI", "OVL_INTERVAL"];

/// Time between two samples of a reason.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Values of the constants that differ between the instances of the programs.
type Instance = [(&'static str, u32); 3];

/// A hook with its device, program and constants.
type Hook = (String, String, &'static str, Instance);

impl Expected<'_> {
    /// The expected programs. No program is at TC egress.
    pub(super) fn wanted_hooks(&self, plan: &Plan) -> Facts {
        let none: Instance = [("OVL_NETNS_ID", 0), ("OVL_SHIM", 0), ("OVL_VNI", 0)];
        let tc = || format!("{} ingress", if self.clsact { "clsact" } else { "TCX" });
        let mut hooks: Vec<Hook> = Vec::new();
        for (network, local, _) in self.networks() {
            let ports = local.iter().map(|endpoint| port_label(network, endpoint));
            hooks.extend(ports.map(|port| (port, tc(), names::PORT_IN, none)));
        }
        for sandbox in &plan.sandboxes {
            let (Sandbox { ns, vni, id, shim, ports }, suffix) = (sandbox, sandbox.suffix());
            let instance = [("OVL_NETNS_ID", *id), ("OVL_SHIM", shim[1]), ("OVL_VNI", *vni)];
            let instance = if ns.is_some() { instance } else { none };
            hooks.extend(ports.iter().map(|port| (format!("{port}{suffix}"), tc(), names::PORT_IN, instance)));
            if ns.is_some() {
                hooks.push((format!("ovlsh{vni}{suffix}"), tc(), names::SHIM_IN, instance));
                hooks.push((format!("ovlsh{vni}"), tc(), names::SHIM_OUT, none));
            }
        }
        if self.networks().any(|(network, ..)| network.strict) {
            let ports = hooks.iter().filter(|(.., program, _)| *program == names::PORT_IN);
            let checks: Vec<Hook> = ports
                .map(|(port, hook, _, instance)| (port.clone(), hook.clone(), names::PORT_CHECK, *instance))
                .collect();
            hooks.extend(checks);
            hooks.push((NIC.to_owned(), tc(), names::NIC_CHECK, none));
        }
        if !hooks.is_empty() {
            hooks.push((NIC.to_owned(), tc(), names::NIC_IN, none));
            if self.has_xdp() {
                hooks.push((NIC.to_owned(), "XDP driver".to_owned(), names::NIC_XDP, none));
            }
        }
        let mut facts = Facts::default();
        for (device, hook, program, instance) in hooks {
            let object = format!("{program} at {hook} of {device}");
            facts.add(&object, "maps", "pinned");
            constants(instance).into_iter().for_each(|(name, value)| facts.add(&object, name, value));
            if self.clsact {
                facts.add_once(&format!("qdisc of {device}"), "clsact", &true);
            }
            facts.add(format!("hooks of {device}"), hook, program);
        }
        facts
    }

    /// The programs of overlay that are attached to any device.
    pub(super) fn found_hooks(&self, places: &[Place]) -> Result<Facts> {
        let (pinned, mut facts) = (pinned(&self.pin_root)?, Facts::default());
        for place in places {
            for Hooks { link, has_clsact, programs } in hooks(&place.ns, &place.links.0)? {
                let device = format!("{}{}", label(link), place.suffix);
                for (hook, name, program) in programs {
                    found_program(&mut facts, &format!("{name} at {hook} of {device}"), &program, &pinned)?;
                    facts.add(format!("hooks of {device}"), hook, name);
                }
                if self.clsact && has_clsact {
                    facts.add(format!("qdisc of {device}"), "clsact", true);
                }
            }
        }
        Ok(facts)
    }
}

/// The programs of overlay that are attached to devices of a namespace: hook and device, name and id.
///
/// # Errors
/// When devices, qdiscs or filters cannot be listed.
pub fn programs(ns: &NetNs) -> Result<Vec<(String, String, u32)>> {
    let links = list(ns, &["ip", "-j", "link", "show"])?;
    let of_device = |Hooks { link, programs, .. }: Hooks<'_>| {
        let device = text(link, "ifname").to_owned();
        programs.into_iter().map(move |(hook, name, program)| (format!("{hook} of {device}"), name, program.id()))
    };
    let mut found: Vec<_> = hooks(ns, &links)?.into_iter().flat_map(of_device).collect();
    found.sort();
    Ok(found)
}

/// The hooks of a device.
struct Hooks<'l> {
    /// The device, as `ip -j link` prints it.
    link: &'l Value,
    has_clsact: bool,
    /// The programs of overlay: hook, name and program.
    programs: Vec<(String, String, ProgramInfo)>,
}

/// The hooks of these devices of a namespace.
fn hooks<'l>(ns: &NetNs, links: &'l [Value]) -> Result<Vec<Hooks<'l>>> {
    let qdiscs = list(ns, &["tc", "-j", "qdisc", "show"])?;
    let of_device = |link| {
        let device = text(link, "ifname");
        let has_clsact = qdiscs.iter().any(|qdisc| qdisc["kind"] == "clsact" && text(qdisc, "dev") == device);
        let of_overlay = |(hook, program): (String, ProgramInfo)| {
            let name = program.name_as_str().filter(|name| name.starts_with("ovl_"))?.to_owned();
            Some((hook, name, program))
        };
        let programs = attached(ns, link, has_clsact)?.into_iter().filter_map(of_overlay).collect();
        Ok(Hooks { link, has_clsact, programs })
    };
    links.iter().map(of_device).collect()
}

/// The programs at a device, with their hooks.
fn attached(ns: &NetNs, link: &Value, has_clsact: bool) -> Result<Vec<(String, ProgramInfo)>> {
    let (device, mut attached) = (text(link, "ifname"), Vec::new());
    for mode in link["xdp"]["attached"].as_array().into_iter().flatten() {
        let hook = if mode["mode"] == 1 { "XDP driver" } else { "XDP generic" };
        attached.extend(by_id(&mode["prog"]["id"]).map(|program| (hook.to_owned(), program)));
    }
    for (direction, kind) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
        // Before Linux 6.6 there is no TCX.
        let tcx = ns.enter(|| SchedClassifier::query_tcx(device, kind)).into_iter().flat_map(|(_, programs)| programs);
        attached.extend(tcx.map(|program| (format!("TCX {direction}"), program)));
        if !has_clsact {
            continue;
        }
        for filter in list(ns, &["tc", "-j", "filter", "show", "dev", device, direction])? {
            attached.extend(
                by_id(&filter["options"]["prog"]["id"]).map(|program| (format!("clsact {direction}"), program)),
            );
        }
    }
    Ok(attached)
}

fn by_id(id: &Value) -> Option<ProgramInfo> {
    let id = id.as_u64()?;
    loaded_programs().filter_map(Result::ok).find(|program| u64::from(program.id()) == id)
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
                facts.add_once(object, name, &value);
            }
        } else if name.starts_with("OVL_") && pinned.get(name) != Some(&id) {
            others.push(name.to_owned());
        }
    }
    let maps = if others.is_empty() { "pinned".to_owned() } else { format!("others: {}", others.join(" ")) };
    facts.add_once(object, "maps", &maps);
    Ok(())
}

/// The expected constants.
fn constants(instance: Instance) -> [(&'static str, u32); CONSTANTS.len()] {
    CONSTANTS.map(|name| {
        let value = match name {
            "OVL_DECAP_IPV6" => decapsulates_ipv6().into(),
            "OVL_INTERVAL" => ticks(SAMPLE_INTERVAL) as u32,
            name => instance.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value),
        };
        (name, value)
    })
}

/// The constants in the order of the section: each is set to a number of its own in a copy of the object.
fn order() -> Result<Vec<&'static str>> {
    let mut object = Object::parse(object())?;
    let numbers: Vec<[u8; 4]> = (1..=CONSTANTS.len() as u32).map(u32::to_ne_bytes).collect();
    let values = CONSTANTS.iter().zip(&numbers).map(|(name, number)| (*name, (number.as_slice(), true)));
    object.patch_map_data(values.collect())?;
    let section = object.maps.get(".rodata").context("the object has no constants")?;
    let places = section.data().chunks_exact(4).map(|word| numbers.iter().position(|number| number == word));
    places.map(|place| Ok(CONSTANTS[place.context("a constant is not in the list")?])).collect()
}
