//! Sets `bpf_target_arch` where aya-build has not, so that the crate also compiles for the host (clippy,
//! rust-analyzer).

fn main() -> aya_build::Result<()> {
    aya_build::emit_bpf_target_arch_cfg()
}
