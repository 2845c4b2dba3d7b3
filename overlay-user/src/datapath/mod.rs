//! The BPF side: load, attach, pin, and the typed tables over BPF maps.

/// The programs, compiled: an ELF object for the BPF target.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/overlay-ebpf"));
