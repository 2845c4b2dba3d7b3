//! Loads the programs over the pinned maps.

use std::{collections::BTreeMap, fs, path::PathBuf};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, MapError},
    programs::{ProgramError, SchedClassifier, Xdp},
};
use overlay_common::{Vni, names};

use crate::fault::{self, Place};

use super::{Maps, OBJECT, PinError, PinRoot, TableIoError, attach::TcFlavour};

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel is too old.
    #[error("this kernel ({found:?}) is too old: {feature} needs Linux {needed}; boot a newer kernel")]
    Kernel {
        /// The running kernel.
        found: String,
        /// What is missing.
        feature: &'static str,
        /// Since when it exists.
        needed: &'static str,
    },
    /// A pinned map from an earlier run has another shape.
    #[error(
        "the map pinned at {path} is {found} and this version needs {needed}; end the old data path with `overlay down`, then start again"
    )]
    Layout {
        /// The pinned map.
        path: PathBuf,
        /// Its shape.
        found: String,
        /// The shape that the programs need.
        needed: String,
    },
    /// The kernel refused the object.
    #[error("cannot load the BPF object: {0}")]
    Object(#[from] Box<EbpfError>),
    /// The verifier refused a program.
    #[error("cannot load the program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// The verifier's word.
        source: ProgramError,
    },
    /// A pinned map cannot be looked at.
    #[error("cannot read the map pinned at {path}: {source}")]
    Map {
        /// The pinned map.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// The pin root.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The maps.
    #[error(transparent)]
    Table(#[from] TableIoError),
}

/// What the data path can use of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kernel {
    flavour: TcFlavour,
    /// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6` (commit d219df60a70e).
    decap_ipv6: bool,
}

impl Kernel {
    /// Reads a release like `6.1.0-18-cloud-amd64`; refuses one that lacks something needed.
    fn of_release(release: &str) -> Result<Self, LoadError> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
        // One that cannot be read is older than any.
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < (5, 18) {
            return Err(LoadError::Kernel { found: release.into(), feature: "XDP with fragments", needed: "5.18" });
        }
        let flavour = if version >= (6, 6) { TcFlavour::Tcx } else { TcFlavour::Clsact };
        Ok(Self { flavour, decap_ipv6: version >= (6, 3) })
    }
}

/// The loaded programs and their maps.
pub struct Datapath {
    pub(super) bpf: Ebpf,
    /// The programs once more for each network in another namespace, over the same maps.
    pub(super) instances: BTreeMap<Vni, Ebpf>,
    pub(super) root: PinRoot,
    pub(super) flavour: TcFlavour,
    fdb_size: u32,
    decap_ipv6: u32,
    /// The tables.
    pub maps: Maps,
}

impl Datapath {
    /// Loads the programs. Maps that are pinned below `root` are used again, with what is in them; others are made and
    /// pinned. Nothing is attached yet.
    ///
    /// # Errors
    /// [`LoadError`]; nothing that was there is changed then.
    pub fn load(root: &PinRoot, fdb_size: Option<u32>, flavour: Option<TcFlavour>) -> Result<Self, LoadError> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = Kernel::of_release(release.trim())?;
        let flavour = flavour.unwrap_or(kernel.flavour);
        let decap_ipv6 = u32::from(kernel.decap_ipv6);
        let fdb_size = fdb_size.unwrap_or(names::FDB_SIZE);
        check_layout(root, fdb_size)?;

        let constants = [("OVL_DECAP_IPV6", decap_ipv6), ("OVL_INTERVAL", super::events::interval())];
        let tc_programs = [names::PORT_IN, names::NIC_IN, names::SHIM_OUT, names::CLOCK];
        let mut bpf = load_object(root, fdb_size, &constants, &tc_programs)?;
        super::attach::xdp_program(&mut bpf)
            .and_then(Xdp::load)
            .map_err(|source| LoadError::Program { name: names::NIC_XDP, source })?;
        let maps = Maps::open(root.path())?;
        let root = root.clone();
        Ok(Self { bpf, instances: BTreeMap::new(), root, flavour, fdb_size, decap_ipv6, maps })
    }

    /// Loads the programs for the ports of a network in another namespace: `site` is the namespace's number, `shim` the
    /// interface index of the shim's end there. An earlier instance for the network is given up; what of it is attached
    /// stays so.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load_instance(&mut self, vni: Vni, site: u16, shim: u32) -> Result<(), LoadError> {
        let constants = [
            ("OVL_DECAP_IPV6", self.decap_ipv6),
            ("OVL_INTERVAL", super::events::interval()),
            ("OVL_SITE", site.into()),
            ("OVL_SHIM", shim),
            ("OVL_VNI", vni.get()),
        ];
        let bpf = load_object(&self.root, self.fdb_size, &constants, &[names::PORT_IN, names::SHIM_IN])?;
        self.instances.insert(vni, bpf);
        Ok(())
    }

    /// Gives up the programs for a network in another namespace. What of them is attached stays so.
    pub fn unload_instance(&mut self, vni: Vni) {
        self.instances.remove(&vni);
    }

    /// Pins a map again whose pin was removed.
    ///
    /// # Errors
    /// [`TableIoError::Pin`].
    pub(crate) fn pin(&self, map: &'static str) -> Result<(), TableIoError> {
        let failed = |reason: String| TableIoError::Pin { map, reason };
        let found = self.bpf.map(map).ok_or_else(|| failed("the programs do not have it".to_owned()))?;
        found.pin(self.root.map(map)).map_err(|error| failed(error.to_string()))
    }

    /// The loaded object, for a log reader.
    pub fn bpf_mut(&mut self) -> &mut Ebpf {
        &mut self.bpf
    }
}

/// Loads the object over the pinned maps, and the named TC programs of it.
fn load_object(
    root: &PinRoot,
    fdb_size: u32,
    constants: &[(&str, u32)],
    tc_programs: &[&'static str],
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(names::FDB, fdb_size);
    for (name, value) in constants {
        loader.override_global(name, value, true);
    }
    for map in names::MAPS {
        loader.map_pin_path(map, root.map(map));
    }
    let mut bpf = loader.load(OBJECT).map_err(Box::new)?;
    for name in tc_programs {
        let refused = |error| LoadError::Program { name, source: ProgramError::IOError(error) };
        fault::at(Place::Load).map_err(refused)?;
        super::attach::tc_program(&mut bpf, name)
            .and_then(SchedClassifier::load)
            .map_err(|source| LoadError::Program { name, source })?;
    }
    Ok(bpf)
}

/// Refuses maps of an earlier run that the programs could not use.
fn check_layout(root: &PinRoot, fdb_size: u32) -> Result<(), LoadError> {
    use overlay_common::maps as m;
    let shape = |key: usize, value: usize, entries: u32| (key as u32, value as u32, entries);
    for (map, needed) in [
        (names::PORTS, shape(size_of::<m::PortKey>(), size_of::<m::Port>(), names::PORTS_SIZE)),
        (names::FDB, shape(size_of::<m::FdbKey>(), size_of::<m::FdbEntry>(), fdb_size)),
        (names::VTEPS, shape(4, size_of::<m::Vtep>(), names::VTEPS_SIZE)),
        (names::SENDERS, shape(size_of::<m::SenderKey>(), size_of::<m::Sender>(), names::SENDERS_SIZE)),
        (names::NETWORKS, shape(4, size_of::<m::Network>(), names::NETWORKS_SIZE)),
        (names::UNDERLAY, shape(4, size_of::<m::Underlay>(), 1)),
        (names::LEASE, shape(4, size_of::<m::Lease>(), 1)),
        (names::TXPORTS, shape(4, 8, names::PORTS_SIZE)),
        (names::REASONS, shape(4, size_of::<m::Count>(), names::REASONS_SIZE)),
        (names::VNI_STATS, shape(4, size_of::<m::Traffic>(), names::NETWORKS_SIZE)),
        (names::EVENTS, shape(0, 0, names::EVENTS_SIZE)),
        (names::SAMPLED, shape(4, size_of::<m::Sampled>(), names::REASONS_SIZE)),
        (names::VTEP_STATS, shape(4, size_of::<m::Traffic>(), names::VTEPS_SIZE)),
    ] {
        let path = root.map(map);
        if !path.exists() {
            continue;
        }
        let info = MapData::from_pin(&path)
            .and_then(|data| data.info())
            .map_err(|source| LoadError::Map { path: path.clone(), source })?;
        let found = (info.key_size(), info.value_size(), info.max_entries());
        if found != needed {
            let say = |(key, value, entries)| format!("{key} → {value} bytes × {entries}");
            return Err(LoadError::Layout { path, found: say(found), needed: say(needed) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_needed_feature_is_refused_by_name() {
        for release in ["5.17.9", "5.10.0-28-amd64", "4.19.0", "5", "", "unknown"] {
            let message = Kernel::of_release(release).unwrap_err().to_string();
            let expected = format!("this kernel ({release:?}) is too old: XDP with fragments needs Linux 5.18;");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn what_a_kernel_has_is_used() {
        let kernel = |flavour, decap_ipv6| Kernel { flavour, decap_ipv6 };
        for (release, expected) in [
            ("5.18.0", kernel(TcFlavour::Clsact, false)),
            ("6.1.0-18-cloud-amd64", kernel(TcFlavour::Clsact, false)),
            ("6.3.0", kernel(TcFlavour::Clsact, true)),
            ("6.6.0-rc1", kernel(TcFlavour::Tcx, true)),
            ("6.12.9+deb13-amd64", kernel(TcFlavour::Tcx, true)),
            ("10.0.0", kernel(TcFlavour::Tcx, true)),
        ] {
            assert_eq!(Kernel::of_release(release).unwrap(), expected, "{release}");
        }
    }
}
