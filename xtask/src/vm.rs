//! `cargo xtask vm`: runs tests on other kernels in virtual machines.

mod machine;
mod packages;
mod part;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::command::{Profile, build, cargo, output, root, target_directory, test_binaries};
use crate::other_build;
use crate::setup::{self, Purpose};
use crate::test::TESTED;
use machine::{Accelerator, Job, Outcome, quoted};
use packages::{Kernel, Sources};
use part::Part;

/// Machines that run at the same time: tests wait about half of their time.
const MACHINES: usize = 2;

/// Run tests on other kernels in virtual machines. Needs root and Debian.
///
/// QEMU, the kernels and the kernels' selftests are Debian packages that are unpacked in the target directory, not
/// installed. A machine has four CPUs. It uses KVM where that works; otherwise it is emulated, and tests take minutes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel to boot; can be repeated [default: 6.12-cloud and 6.1-cloud]
    #[arg(long, value_enum, value_name = "KERNEL")]
    kernel: Vec<Series>,
    /// Tests to run; can be repeated [default: what CI runs on the kernel]
    #[arg(long, value_enum, value_name = "PART")]
    part: Vec<Part>,
    /// Run all tests of every part, not only those of CI
    #[arg(long)]
    full: bool,
    /// Run only tests whose name contains this text
    filter: Option<String>,
    /// Run this shell command instead of the tests
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["filter", "part", "full"])]
    command: Option<String>,
}

/// A series of Debian's kernels.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Series {
    #[value(name = "6.1-cloud")]
    Cloud6_1,
    #[value(name = "6.12-cloud")]
    Cloud6_12,
    #[value(name = "6.12")]
    Full6_12,
    /// The newest kernel in Debian, which changes daily
    Unstable,
}

impl Series {
    /// The package that depends on the newest kernel of the series.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud6_1 | Self::Unstable => "linux-image-cloud-amd64",
            Self::Cloud6_12 => "linux-image-6.12-cloud-amd64",
            Self::Full6_12 => "linux-image-6.12-amd64",
        }
    }

    fn kernel(self, cache: &Path) -> Result<Kernel> {
        let sources = if self == Self::Unstable { Sources::unstable(cache)? } else { Sources::configured() };
        sources.kernel(self.package(), cache)
    }

    /// The package with the kernel's sources.
    fn source_package(self) -> Option<&'static str> {
        match self {
            Self::Cloud6_1 => Some("linux-source-6.1"),
            Self::Cloud6_12 | Self::Full6_12 => Some("linux-source-6.12"),
            Self::Unstable => None,
        }
    }

    /// The parts that run by default.
    fn parts(self, full: bool) -> &'static [Part] {
        use Part::{Selftests, Swarm, TwoHosts, Underlays, Upgrade};
        match (self, full) {
            // The longest first.
            (Self::Cloud6_12 | Self::Full6_12, _) => &[Selftests, Swarm, TwoHosts, Upgrade, Underlays],
            (Self::Cloud6_1, false) => &[TwoHosts, Upgrade],
            (Self::Cloud6_1, true) => &[TwoHosts, Upgrade, Underlays, Selftests],
            (Self::Unstable, _) => &[TwoHosts],
        }
    }
}

/// What a machine runs.
struct Task {
    /// Kernel and part.
    name: String,
    /// Index of the kernel.
    kernel: usize,
    /// A shell command.
    command: String,
}

/// Directories of the machines.
struct Directories {
    /// Cargo's target directory.
    target: PathBuf,
    /// Packages, and files of the machines.
    cache: PathBuf,
}

pub(crate) fn task(args: &Args) -> Result<()> {
    setup::ensure_ready_for(Purpose::Test)?;
    let start = Instant::now();
    let series = if args.kernel.is_empty() { &[Series::Cloud6_12, Series::Cloud6_1] } else { args.kernel.as_slice() };
    // virtiofsd needs paths without symbolic links.
    let target = fs::canonicalize(target_directory()?)?;
    let directories = Directories { cache: target.join("vm"), target };
    let cache = &directories.cache;
    fs::create_dir_all(cache)?;
    // Concurrent runs would overwrite each other's files.
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    let qemu = packages::qemu(cache)?;
    let kernels = series.iter().map(|series| series.kernel(cache)).collect::<Result<Vec<_>>>()?;
    let tasks = match &args.command {
        Some(command) => {
            let task = |(kernel, name): (usize, &Kernel)| Task {
                name: name.release.clone(),
                kernel,
                command: command.clone(),
            };
            kernels.iter().enumerate().map(task).collect()
        }
        None => tests(args, series, &kernels, &directories)?,
    };
    let accelerator = match kernels.first() {
        Some(kernel) => Accelerator::find(kernel, &directories.target, &qemu, cache),
        None => bail!("no kernel"),
    };
    println!("vm: built and downloaded after {} s", start.elapsed().as_secs());

    let (waiting, failed) = (Mutex::new(tasks.iter()), Mutex::new(Vec::new()));
    let worker = || {
        let next = || waiting.lock().ok()?.next();
        while let Some(task) = next() {
            if let Err(error) = run(task, &kernels[task.kernel], accelerator, &qemu, &directories) {
                println!("{}: {error:#}", task.name);
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(task.name.as_str());
            }
        }
    };
    thread::scope(|scope| (0..MACHINES).for_each(|_| drop(scope.spawn(worker))));
    println!("vm: {} machines after {} s", tasks.len(), start.elapsed().as_secs());
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs a task on a machine, and prints its duration.
fn run(task: &Task, kernel: &Kernel, accelerator: Accelerator, qemu: &Path, directories: &Directories) -> Result<()> {
    let start = Instant::now();
    let job = Job {
        name: &task.name,
        kernel,
        command: &task.command,
        target: &directories.target,
        memory_mib: 3072,
        cpus: 4,
        limit: Duration::from_secs(3600),
    };
    let Outcome { code, cpu_time } = machine::run(&job, accelerator, qemu, &directories.cache)?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let (seconds, cpu) = (start.elapsed().as_secs(), cpu_time.as_secs());
    let time = format!("after {seconds} s, {cpu} s of CPU time, load average {load}");
    ensure!(code == 0, "exit code {code} {time}");
    println!("{}: passed {time}", task.name);
    Ok(())
}

/// The tasks that run tests; builds these.
fn tests(args: &Args, series: &[Series], kernels: &[Kernel], directories: &Directories) -> Result<Vec<Task>> {
    let parts = |series: Series| if args.part.is_empty() { series.parts(args.full) } else { &args.part };
    let has_upgrade = series.iter().any(|series| parts(*series).contains(&Part::Upgrade));
    let programs = Programs::build(has_upgrade, &directories.cache)?;
    let mut tasks = Vec::new();
    for (index, (series, kernel)) in series.iter().zip(kernels).enumerate() {
        for part in parts(*series) {
            let command = programs.command(*part, *series, args, &directories.cache)?;
            tasks.push(Task { name: format!("{}-{part}", kernel.release), kernel: index, command });
        }
    }
    Ok(tasks)
}

/// Compiled programs.
struct Programs {
    /// `overlay` as for users. It needs half of the debug build's CPU time.
    overlay: PathBuf,
    /// `overlay` with fault injection. The other build for the suite `upgrade` is next to it.
    testing: PathBuf,
    nextest: PathBuf,
}

impl Programs {
    fn build(with_other: bool, cache: &Path) -> Result<Self> {
        if with_other {
            other_build::build(&TESTED)?;
        }
        let [overlay] = build(Profile::Release, [("overlay-user", "overlay")])?;
        let [testing] = build(Profile::Debug, [("overlay-user", "overlay")])?;
        fs::write(cache.join("binaries.json"), test_binaries(&part::SUITES)?)?;
        let metadata = output(cargo().args(["metadata", "--locked", "--format-version=1"]));
        fs::write(cache.join("cargo.json"), metadata.context("`cargo metadata` failed")?)?;
        Ok(Self { overlay, testing, nextest: nextest()? })
    }

    /// The shell command that runs the tests of a part.
    fn command(&self, part: Part, series: Series, args: &Args, cache: &Path) -> Result<String> {
        let word = |path: &Path| quoted(&path.to_string_lossy());
        let overlay = if part == Part::Upgrade { &self.testing } else { &self.overlay };
        let mut lines = vec![
            format!("cd {} || exit", word(root())),
            format!("export OVERLAY_BIN={} OVERLAY_LAB_PATIENCE=10 CI=1", word(overlay)),
            "code=0".to_owned(),
        ];
        if part == Part::Selftests {
            let package = series.source_package().context("there is no package with the selftests of this kernel")?;
            let (tests, tools) = Sources::configured().selftests(package, cache)?;
            lines.push(format!("export OVERLAY_SELFTESTS={} OVERLAY_SELFTEST_TOOLS={}", word(&tests), word(&tools)));
        }
        for run in part.runs() {
            let tests = match &args.filter {
                Some(name) => format!("({}) & test({name})", run.all),
                None if args.full || series == Series::Unstable => run.all.to_owned(),
                None => run.ci.to_owned(),
            };
            lines.push(format!(
                "{} {} nextest run --cargo-metadata {} --binaries-metadata {} --profile vm -E {} || code=$?",
                run.environment,
                word(&self.nextest),
                word(&cache.join("cargo.json")),
                word(&cache.join("binaries.json")),
                quoted(&tests)
            ));
        }
        lines.push("exit $code".to_owned());
        Ok(lines.join("\n"))
    }
}

/// The path of nextest's program, which runs without cargo in the machines.
fn nextest() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let mut directories = env::split_paths(&path).chain(home.map(|home| home.join("bin")));
    let found = directories.find_map(|directory| fs::canonicalize(directory.join("cargo-nextest")).ok());
    found.context("cargo-nextest is missing; run `cargo xtask setup`")
}
