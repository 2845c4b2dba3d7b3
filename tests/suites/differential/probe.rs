//! The programs `observe`, `change` and `congest` of the tests' eBPF crate, on a device.

use std::time::{Duration, Instant};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use overlay_tests::{bench::OBJECT, lab::NetNs};

use self::record::{FIELDS, HEAD, Record};
use crate::{
    compare::{Fields, Value},
    frames::number,
};

#[path = "../../ebpf/src/record.rs"]
mod record;

/// Mark and priority that `change` sets.
pub(crate) const MARK: u32 = 0x5eed;
pub(crate) const PRIORITY: u32 = 3;

/// What a program reads of one packet.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Number of the packet.
    pub(crate) number: u16,
    pub(crate) fields: Fields,
}

/// A program on a device, ahead of all others. Detached on drop.
pub(crate) struct Probe {
    ebpf: Ebpf,
}

impl Probe {
    /// Attaches `change` to TC ingress.
    pub(crate) fn change(ns: &NetNs, device: &str) -> Self {
        Self::attach(ns, device, "change", TcAttachType::Ingress, 0)
    }

    /// Attaches `congest` to TC egress.
    pub(crate) fn congest(ns: &NetNs, device: &str) -> Self {
        Self::attach(ns, device, "congest", TcAttachType::Egress, 0)
    }

    /// Attaches `observe` to TC ingress. The numbers are in the frames at offset `inner`.
    pub(crate) fn observe(ns: &NetNs, device: &str, inner: u32) -> Self {
        Self::attach(ns, device, "observe", TcAttachType::Ingress, inner)
    }

    fn attach(ns: &NetNs, device: &str, name: &str, hook: TcAttachType, inner: u32) -> Self {
        let mut loader = EbpfLoader::new();
        let globals = [("CHANGE_MARK", &MARK), ("CHANGE_PRIORITY", &PRIORITY), ("OBSERVE_AT", &inner)];
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(OBJECT).unwrap();
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        ns.enter(|| program.attach_with_options(device, hook, options)).unwrap();
        Self { ebpf }
    }

    /// Records of numbered packets since the last call, until `is_enough` is true of their number or 5 s are over.
    pub(crate) fn records(&mut self, is_enough: impl Fn(usize) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut ring = RingBuf::try_from(self.ebpf.map_mut("RECORDS").unwrap()).unwrap();
        let mut seen = Vec::new();
        loop {
            while let Some(record) = ring.next() {
                seen.extend(decode(&record));
            }
            if is_enough(seen.len()) || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let missed = PerCpuArray::<&MapData, u64>::try_from(self.ebpf.map("MISSED").unwrap()).unwrap();
        assert_eq!(missed.get(&0, 0).unwrap().iter().sum::<u64>(), 0, "the ring was full");
        seen
    }
}

fn decode(bytes: &[u8]) -> Option<Seen> {
    assert_eq!(bytes.len(), size_of::<Record>());
    let (head, values) = bytes.split_at(HEAD);
    let values = values.chunks_exact(4).map(|value| i32::from_ne_bytes(value.try_into().unwrap()));
    let values = values.map(|value| Value::Number(value.into()));
    Some(Seen { number: number(head)?, fields: FIELDS.into_iter().zip(values).collect() })
}
