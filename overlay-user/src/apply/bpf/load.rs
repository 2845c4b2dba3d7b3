//! Loads the programs over the pinned maps.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use overlay_common::{
    Vni,
    maps::{self, LAYOUT},
    names,
};
use tracing::{debug, info};

use crate::{
    apply::ledger::{Fact, Ledger, PinRoot},
    kernel,
    sys::{
        bpf::probe,
        fault::{self, Point},
    },
};

use super::{
    LoadError, Maps, TableIoError, events, layout,
    migrate::{self, Migration},
    object,
    program::{self, TcFlavour},
};

/// Decapsulation of IPv6 (commit d219df60a70e, Linux 6.3).
const BPF_F_ADJ_ROOM_DECAP_L3_IPV6: i32 = 1 << 8;

/// Features of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kernel {
    flavour: TcFlavour,
    /// [`BPF_F_ADJ_ROOM_DECAP_L3_IPV6`].
    decap_ipv6: bool,
}

impl Kernel {
    /// Tries the features; refuses a kernel without a required one.
    fn probe() -> Result<Self, LoadError> {
        // Without a capability the programs cannot be loaded either, and that error names it.
        if !probe::has_xdp_fragments().unwrap_or(true) {
            let found = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
            return Err(LoadError::Kernel { found, feature: "XDP with fragments", needed: "5.18" });
        }
        let flavour = if kernel::has_tcx() { TcFlavour::Tcx } else { TcFlavour::Clsact };
        let decap_ipv6 = probe::adjust_room_knows(BPF_F_ADJ_ROOM_DECAP_L3_IPV6).unwrap_or(false);
        Ok(Self { flavour, decap_ipv6 })
    }
}

/// The loaded programs and their maps.
pub struct Datapath {
    pub(crate) bpf: Ebpf,
    /// Another instance of the programs for each network in another namespace, over the same maps.
    pub(crate) instances: BTreeMap<Vni, Ebpf>,
    pub(crate) flavour: TcFlavour,
    fdb_size: u32,
    decap_ipv6: u32,
    /// The tables.
    pub maps: Maps,
    takeover: Takeover,
}

/// Progress of the takeover from an earlier daemon.
enum Takeover {
    /// The maps in the root are those of all programs.
    Done,
    /// The maps in the root are current, but some hooks may have programs with other maps: a daemon of another version
    /// crashed during its takeover.
    Interrupted,
    /// The programs have new maps.
    Migrating(Migration),
}

impl Takeover {
    /// The directory of the programs' pinned maps.
    fn directory(&self, root: &PinRoot) -> PathBuf {
        if matches!(self, Self::Migrating(_)) { root.next() } else { root.path().to_owned() }
    }
}

impl Datapath {
    /// Loads the programs. Maps in the pin root with the required layout are reused with their contents; otherwise new
    /// maps are created and pinned. No program is attached.
    ///
    /// # Errors
    /// [`LoadError`]; an existing data path continues unmodified.
    pub fn load(ledger: &Ledger, fdb_size: Option<u32>, flavour: Option<TcFlavour>) -> Result<Self, LoadError> {
        let kernel = Kernel::probe()?;
        let flavour = flavour.unwrap_or(kernel.flavour);
        let decap_ipv6 = u32::from(kernel.decap_ipv6);
        let fdb_size = fdb_size.unwrap_or(maps::FDB.entries);
        let root = ledger.root();
        migrate::finish(ledger)?;
        let needed = layout::needed(fdb_size)?;
        let differences = layout::differences(root, &needed)?;
        let takeover = if differences.is_empty() {
            ledger.set(Fact::LAYOUT, LAYOUT)?;
            if root.next().exists() { Takeover::Interrupted } else { Takeover::Done }
        } else {
            info!("the maps at {} are replaced: {}", root.path().display(), differences[0]);
            debug!("differences of the maps: {}", differences.join(", "));
            Takeover::Migrating(Migration::begin(ledger, &needed)?)
        };
        let loaded = Self::load_into(root, takeover, (flavour, fdb_size, decap_ipv6)).and_then(|mut loaded| {
            if let Takeover::Migrating(migration) = &mut loaded.takeover {
                migration.take_over(root, &needed)?;
            }
            Ok(loaded)
        });
        if loaded.is_err() && !differences.is_empty() {
            // The first error is the one to report.
            let _ = migrate::discard(ledger);
        }
        fault::kill_at("loaded");
        loaded
    }

    fn load_into(
        root: &PinRoot,
        takeover: Takeover,
        (flavour, fdb_size, decap_ipv6): (TcFlavour, u32, u32),
    ) -> Result<Self, LoadError> {
        let constants = [("OVL_DECAP_IPV6", decap_ipv6), ("OVL_INTERVAL", events::interval())];
        let tc_programs = [names::PORT_IN, names::NIC_IN, names::SHIM_OUT, names::CLOCK];
        let directory = takeover.directory(root);
        let mut bpf = load_object(&directory, fdb_size, &constants, &tc_programs)?;
        program::xdp_program(&mut bpf)
            .and_then(Xdp::load)
            .map_err(|source| LoadError::Program { name: names::NIC_XDP, source })?;
        let maps = Maps::open(&directory)?;
        Ok(Self { bpf, instances: BTreeMap::new(), flavour, fdb_size, decap_ipv6, maps, takeover })
    }

    /// Whether programs of an earlier daemon with other maps than [`Self::maps`] may be attached. They must be replaced
    /// or detached, followed by `finish_takeover`.
    #[must_use]
    pub const fn is_taking_over(&self) -> bool {
        !matches!(self.takeover, Takeover::Done)
    }

    /// Whether [`Self::maps`] are new and empty, next to those of an earlier daemon.
    #[must_use]
    pub const fn has_new_maps(&self) -> bool {
        matches!(self.takeover, Takeover::Migrating(_))
    }

    /// Replaces the maps of an earlier daemon, which no program uses any more, and removes other pins of another
    /// version.
    ///
    /// # Errors
    /// [`LoadError`]; the call can be repeated.
    pub(crate) fn finish_takeover(&mut self, ledger: &Ledger) -> Result<(), LoadError> {
        match &mut self.takeover {
            Takeover::Done => return Ok(()),
            Takeover::Interrupted => {
                migrate::discard(ledger)?;
                migrate::remove_unknown(ledger)?;
            }
            Takeover::Migrating(migration) => migration.commit(ledger)?,
        }
        self.takeover = Takeover::Done;
        Ok(())
    }

    /// Maximum number of entries of `OVL_FDB`.
    #[must_use]
    pub const fn fdb_size(&self) -> u32 {
        self.fdb_size
    }

    /// How TC programs are attached.
    #[must_use]
    pub const fn flavour(&self) -> TcFlavour {
        self.flavour
    }

    /// Loads the programs for the ports of a network in another namespace: `netns_id` identifies the namespace, `shim`
    /// is the interface index of the shim's end there. Replaces an earlier instance of the network; its attached
    /// programs stay attached.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) fn load_instance(
        &mut self,
        ledger: &Ledger,
        vni: Vni,
        netns_id: u16,
        shim: u32,
    ) -> Result<(), LoadError> {
        let constants = [
            ("OVL_DECAP_IPV6", self.decap_ipv6),
            ("OVL_INTERVAL", events::interval()),
            ("OVL_NETNS_ID", netns_id.into()),
            ("OVL_SHIM", shim),
            ("OVL_VNI", vni.get()),
        ];
        let directory = self.takeover.directory(ledger.root());
        let bpf = load_object(&directory, self.fdb_size, &constants, &[names::PORT_IN, names::SHIM_IN])?;
        self.instances.insert(vni, bpf);
        Ok(())
    }

    /// Drops the programs for a network in another namespace. Attached programs stay attached.
    pub fn unload_instance(&mut self, vni: Vni) {
        self.instances.remove(&vni);
    }

    /// Restores the removed pin of a map.
    ///
    /// # Errors
    /// [`TableIoError::Pin`].
    pub(crate) fn pin(&self, ledger: &Ledger, map: &'static str) -> Result<(), TableIoError> {
        let failed = |reason: String| TableIoError::Pin { map, reason };
        let found = self.bpf.map(map).ok_or_else(|| failed("the programs do not have it".to_owned()))?;
        found.pin(self.takeover.directory(ledger.root()).join(map)).map_err(|error| failed(error.to_string()))
    }

    /// The loaded object, for a reader of its log.
    #[cfg(feature = "log")]
    pub fn bpf_mut(&mut self) -> &mut Ebpf {
        &mut self.bpf
    }
}

/// Loads the object with the maps pinned in a directory, and its named TC programs.
fn load_object(
    directory: &Path,
    fdb_size: u32,
    constants: &[(&str, u32)],
    tc_programs: &[&'static str],
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(maps::FDB.name, fdb_size);
    for (name, value) in constants {
        loader.override_global(name, value, true);
    }
    for map in maps::MAPS {
        loader.map_pin_path(map.name, directory.join(map.name));
    }
    let mut bpf = loader.load(object()).map_err(Box::new)?;
    for name in tc_programs {
        let refused = |error| LoadError::Program { name, source: ProgramError::IOError(error) };
        fault::at(Point::Load).map_err(refused)?;
        program::tc_program(&mut bpf, name)
            .and_then(SchedClassifier::load)
            .map_err(|source| LoadError::Program { name, source })?;
    }
    Ok(bpf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_without_required_feature_is_refused_by_name() {
        let found = "5.10.0-28-amd64".to_owned();
        let error = LoadError::Kernel { found, feature: "XDP with fragments", needed: "5.18" }.to_string();
        let expected = "this kernel (\"5.10.0-28-amd64\") is too old: XDP with fragments needs Linux 5.18;";
        assert!(error.starts_with(expected), "{error}");
    }

    /// As root. Whatever the kernel's version: a TCX program can be attached if and only if the probe finds it.
    #[test]
    fn features_are_found_by_trying() {
        let kernel = Kernel::probe().unwrap();
        let (_, programs) = match aya::programs::SchedClassifier::query_tcx("lo", aya::programs::TcAttachType::Ingress)
        {
            Ok(found) => found,
            Err(_) => return assert_eq!(kernel.flavour, TcFlavour::Clsact),
        };
        assert_eq!((kernel.flavour, programs.len()), (TcFlavour::Tcx, 0));
    }
}
