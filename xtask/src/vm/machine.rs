//! The virtual machine: its initial file system, and QEMU.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::packages::{self, Kernel};
use crate::command::{check, root as root_of_workspace};

const INIT: &str = include_str!("init.sh");

/// Modules for mounting the root. All others are loaded from the root.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// Longest time until a machine with KVM has booted: on a machine without a usable KVM, this delays the first boot.
const KVM_BOOT: Duration = Duration::from_secs(60);

/// Parameters of the kernel. What follows `quiet` saves time, most of all where the machine is emulated.
const PARAMETERS: &str = "console=ttyS0 loglevel=3 panic=-1 quiet mitigations=off tsc=reliable no_timer_check \
    init_on_alloc=0 kfence.sample_interval=0 randomize_kstack_offset=off nowatchdog audit=0 apparmor=0 selinux=0";

/// A command to run, and its virtual machine.
pub(super) struct Job<'a> {
    /// Name of its files, and prefix of its output.
    pub(super) name: &'a str,
    pub(super) kernel: &'a Kernel,
    /// A shell command.
    pub(super) command: &'a str,
    /// Directory of compiled programs.
    pub(super) target: &'a Path,
    pub(super) memory_mib: u32,
    pub(super) cpus: usize,
    pub(super) limit: Duration,
}

/// A finished job.
pub(super) struct Outcome {
    /// Exit code of the command.
    pub(super) code: i32,
    /// CPU time of the machine.
    pub(super) cpu_time: Duration,
}

/// How the machine's CPUs are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the CPUs of this machine.
    Kvm,
    /// Emulated.
    Tcg,
}

impl Accelerator {
    /// KVM if a machine with this kernel boots with it. Its device can exist where it does not work, for instance in
    /// a virtual machine.
    pub(super) fn find(kernel: &Kernel, target: &Path, qemu: &Path, cache: &Path) -> Self {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Self::Tcg;
        }
        let job = Job { name: "kvm", kernel, command: "true", target, memory_mib: 512, cpus: 1, limit: KVM_BOOT };
        match run(&job, Self::Kvm, qemu, cache) {
            Ok(Outcome { code: 0, .. }) => Self::Kvm,
            Ok(Outcome { code, .. }) => Self::without_kvm(&format!("exit code {code}")),
            Err(error) => Self::without_kvm(format!("{error:#}").lines().last().unwrap_or_default()),
        }
    }

    fn without_kvm(reason: &str) -> Self {
        eprintln!("vm: KVM does not work here ({reason}); the machines are emulated");
        Self::Tcg
    }

    fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // The vector instructions are left out: the emulation of SSE is faster.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-avx,-avx2,-erms,-fsrm,-smap,-smep,-la57,-pku"],
        }
    }
}

/// A child process that is killed on drop.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the kernel, runs the command, and prints its output.
pub(super) fn run(job: &Job<'_>, accelerator: Accelerator, qemu: &Path, cache: &Path) -> Result<Outcome> {
    let initrd = initrd(job, cache)?;
    let messages = cache.join(format!("messages-{}", job.name));
    let libraries = [qemu.join("usr/lib/x86_64-linux-gnu"), qemu.join("lib/x86_64-linux-gnu")];
    let libraries = std::env::join_paths(libraries)?;
    // In the abstract namespace, so that no file remains.
    let socket = format!("overlay-vm-{}-{}", std::process::id(), job.name);
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket)?)?;
    let mut sharing = dependent(&qemu.join("usr/lib/qemu/virtiofsd"));
    sharing.env("LD_LIBRARY_PATH", &libraries).stdout(Stdio::null()).stderr(Stdio::null());
    // The listening socket is standard input.
    sharing.arg("--fd=0").stdin(OwnedFd::from(listener));
    sharing.args(["-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always", "-o", "xattr"]);
    let _sharing = KilledOnDrop(sharing.spawn().with_context(|| format!("cannot start {sharing:?}"))?);

    let start = Instant::now();
    let memory = format!("{}M", job.memory_mib);
    let mut machine = dependent(&qemu.join("usr/bin/qemu-system-x86_64"));
    machine.env("LD_LIBRARY_PATH", &libraries).env("QEMU_MODULE_DIR", qemu.join("usr/lib/x86_64-linux-gnu/qemu"));
    for directory in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        machine.arg("-L").arg(qemu.join(directory));
    }
    machine.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot", "-nic", "none"]);
    machine.args(["-machine", "q35,memory-backend=memory"]).args(accelerator.options());
    machine.args(["-m", &memory, "-smp", &job.cpus.to_string()]);
    machine.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={memory},share=on"));
    machine.arg("-chardev").arg(format!("socket,id=root,path={socket},abstract=on,tight=on"));
    machine.args(["-device", "vhost-user-fs-pci,chardev=root,tag=root"]);
    machine.arg("-kernel").arg(&job.kernel.image).arg("-initrd").arg(&initrd);
    machine.args(["-append", PARAMETERS]);
    machine.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&messages)?);
    let mut machine = KilledOnDrop(machine.spawn().with_context(|| format!("cannot start {machine:?}"))?);
    let console = machine.0.stdout.take().context("the console is a pipe")?;
    // The exit of the machine closes the console, which ends the loop below.
    let pid = machine.0.id();
    let (limit, watched) = (job.limit, machine);
    let watchdog = thread::spawn(move || watch(watched, limit));
    let (mut code, mut boot) = (None, Some(Vec::new()));
    for line in BufReader::new(console).lines() {
        let line = line.with_context(|| format!("cannot read the console of process {pid}"))?;
        let (time, line) = (start.elapsed().as_secs_f64(), line.trim_end());
        if let Some(exit) = line.strip_prefix("@@exit: ") {
            code = code.or(exit.parse().ok());
        } else if let Some(lines) = &mut boot {
            // The output of the firmware and the kernel is printed only if the boot fails.
            lines.push(line.to_owned());
            if let Some((_, booted)) = line.split_once("@@booted: ") {
                println!("{}: {time:7.2}  booted {booted}", job.name);
                boot = None;
            }
        } else if !line.is_empty() && code.is_none() {
            println!("{}: {time:7.2}  {line}", job.name);
        }
    }
    let cpu_time = watchdog.join().unwrap_or_default();
    if let Some(lines) = boot {
        let messages = fs::read_to_string(&messages).unwrap_or_default();
        let lines =
            lines.iter().map(String::as_str).chain(messages.lines()).map(|line| line.escape_debug().to_string());
        bail!("the virtual machine did not boot:\n{}", lines.collect::<Vec<_>>().join("\n"));
    }
    let cpu_time =
        cpu_time.with_context(|| format!("the virtual machine did not exit within {} s", limit.as_secs()))?;
    Ok(Outcome { code: code.context("the virtual machine exited before the command")?, cpu_time })
}

/// A program that is killed when this process exits or is killed.
fn dependent(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Waits for the exit of the machine, and returns its CPU time; `None` when it is killed after `limit`.
fn watch(mut machine: KilledOnDrop, limit: Duration) -> Option<Duration> {
    let (start, mut cpu_time) = (Instant::now(), Duration::ZERO);
    while start.elapsed() < limit {
        cpu_time = cpu_time_of(machine.0.id()).unwrap_or(cpu_time);
        if matches!(machine.0.try_wait(), Ok(Some(_))) {
            return Some(cpu_time);
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}

/// CPU time of a process so far: `utime` and `stime` of `/proc/PID/stat`, in hundredths of a second (proc_pid_stat(5)).
fn cpu_time_of(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, can have blanks. `utime` is the 14th field.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>().ok()?;
    Some(Duration::from_millis(10 * ticks))
}

/// The initial file system: busybox, a few modules, the script and the job.
fn initrd(job: &Job<'_>, cache: &Path) -> Result<PathBuf> {
    let root = cache.join(format!("initrd-{}", job.name));
    let _ = fs::remove_dir_all(&root);
    for directory in ["bin", "sbin", "proc", "sys", "dev", "shared", "written"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.is_file());
    fs::copy(busybox.context("busybox is missing (Debian package busybox-static)")?, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    for file in packages::modules(job.kernel, &MODULES)? {
        let copy = root.join(file.strip_prefix(&job.kernel.root)?);
        fs::create_dir_all(copy.parent().context("a module is in a directory")?)?;
        if file.extension().is_some_and(|extension| extension == "xz") {
            let unpacked = File::create(copy.with_extension(""))?;
            let status = Command::new("xz").args(["--decompress", "--stdout"]).arg(&file).stdout(unpacked).status()?;
            ensure!(status.success(), "{}: cannot be unpacked", file.display());
        } else {
            fs::copy(&file, &copy)?;
        }
    }
    let modules = job.kernel.root.join("lib/modules");
    for list in ["order", "builtin", "builtin.modinfo"].map(|list| format!("{}/modules.{list}", job.kernel.release)) {
        fs::copy(modules.join(&list), root.join("lib/modules").join(&list))?;
    }
    check(Command::new("depmod").arg("-b").arg(&root).arg(&job.kernel.release))?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let variables = [
        ("MODULES", modules.as_os_str()),
        ("WORKSPACE", root_of_workspace().as_os_str()),
        ("TARGET", job.target.as_os_str()),
        ("COMMAND", job.command.as_ref()),
    ]
    .map(|(name, value)| format!("{name}={}\n", quoted(&value.to_string_lossy())));
    fs::write(root.join("job"), variables.concat())?;

    // Releases of kernels have dots, so that `with_extension` would give machines with the same kernel one file.
    let archive = cache.join(format!("initrd-{}.cpio", job.name));
    // Not compressed: an emulated machine needs seconds to unpack it.
    let pack = "find . | cpio --create --format=newc --quiet";
    let mut packing = Command::new("sh");
    packing.args(["-c", pack]).current_dir(&root).stdin(Stdio::null()).stdout(File::create(&archive)?);
    ensure!(packing.status()?.success(), "cannot pack the initial file system; install cpio (Debian package cpio)");
    Ok(archive)
}

/// Quotes a word for the shell.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_one_word() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
