//! QEMU, Debian's kernels and the kernels' selftests, unpacked instead of installed: their installation could remove other
//! packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{check, output};

/// QEMU 7.2 of Debian 12 and the libraries that it needs beyond a basic system.
const QEMU: [&str; 30] = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
    "ipxe-qemu",
    "libaio1",
    "libbrlapi0.8",
    "libcacard0",
    "libcapstone4",
    "libdaxctl1",
    "libepoxy0",
    "libexecs0",
    "libfdt1",
    "libgstreamer-plugins-base1.0-0",
    "libibverbs1",
    "libndctl6",
    "libnl-3-200",
    "libnl-route-3-200",
    "libopus0",
    "liborc-0.4-0",
    "libpmem1",
    "librdmacm1",
    "libseccomp2",
    "libslirp0",
    "libsndio7.0",
    "libspice-server1",
    "libusb-1.0-0",
    "libusbredirparser1",
    "liburing2",
    "libvdeplug2",
];

/// `mausezahn` and `jq`, which the kernel's selftests call, and the libraries that they need beyond a basic system.
const SELFTEST_TOOLS: [&str; 14] = [
    "jq",
    "libcli1.10",
    "libgeoip1",
    "libjq1",
    "libnet1",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnl-3-200",
    "libnl-genl-3-200",
    "libnl-route-3-200",
    "libonig5",
    "libpcap0.8",
    "libsodium23",
    "netsniff-ng",
];

/// A kernel of Debian, unpacked.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// The directory with `lib/modules`.
    pub(super) root: PathBuf,
    pub(super) release: String,
}

/// Package sources.
pub(super) struct Sources {
    /// Options of apt.
    options: Vec<String>,
}

impl Sources {
    /// Those of this machine.
    pub(super) fn configured() -> Self {
        Self { options: Vec::new() }
    }

    /// Debian's suite `unstable`, from the archive that this machine uses. Nothing is installed from it, and the machine's
    /// own package lists stay as they are.
    pub(super) fn unstable(cache: &Path) -> Result<Self> {
        let format = ["indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"];
        let sites = output(Command::new("apt-get").args(format)).unwrap_or_default();
        let site = sites.lines().next().context("the package sources of this machine have no Debian archive")?;
        let directory = cache.join("unstable");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("sources.list"), format!("deb {site} unstable main\n"))?;
        let path = |name: &str| directory.join(name).display().to_string();
        let options = vec![
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
        ];
        let sources = Self { options };
        check(sources.command("apt-get").arg("update"))?;
        Ok(sources)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-q", "-o", "APT::Sandbox::User=root"]);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    /// Downloads packages to a directory, and returns their files in the same order.
    fn download(&self, packages: &[&str], downloads: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(downloads)?;
        let download = || check(self.command("apt-get").arg("download").args(packages).current_dir(downloads));
        if download().is_err() {
            check(self.command("apt-get").arg("update"))?;
            download()?;
        }
        let file = |package: &&str| {
            let prefix = format!("{package}_");
            let mut files = fs::read_dir(downloads)?.flatten().map(|entry| entry.path());
            let is_package =
                |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
            files.find(is_package).with_context(|| format!("{package} was not downloaded"))
        };
        packages.iter().map(file).collect()
    }

    /// Downloads packages and unpacks them.
    fn unpack(&self, packages: &[&str], cache: &Path, root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        for file in self.download(packages, &cache.join("packages"))? {
            check(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(root))?;
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Unpacks the newest kernel of a series below `cache`, unless it is unpacked already.
    pub(super) fn kernel(&self, package: &str, cache: &Path) -> Result<Kernel> {
        let depends = output(self.command("apt-cache").args(["depends", package])).unwrap_or_default();
        let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let release = image.with_context(|| format!("the package sources have no {package}"))?.to_owned();
        let root = once(&cache.join(&release), |root| {
            eprintln!("vm: downloading Linux {release} from Debian");
            self.unpack(&[&format!("linux-image-{release}")], cache, root)?;
            check(Command::new("depmod").arg("-b").arg(root).arg(&release))
        })?;
        Ok(Kernel { image: root.join(format!("boot/vmlinuz-{release}")), root, release })
    }

    /// Unpacks the network selftests of a kernel's source package and the programs that they call, unless they are
    /// unpacked already. Returns the directories of both.
    pub(super) fn selftests(&self, package: &str, cache: &Path) -> Result<(PathBuf, PathBuf)> {
        let tests = once(&cache.join(format!("selftests-{package}")), |root| {
            eprintln!("vm: downloading {package} from Debian");
            let files = self.download(&[package], &cache.join("packages"))?;
            let [file] = files.as_slice() else { bail!("{package} is not one file") };
            fs::create_dir_all(root)?;
            let unpack = "dpkg-deb --fsys-tarfile \"$1\" | tar -x -O \"./usr/src/$2.tar.xz\" | tar -x -J --strip-components=5 \
                --wildcards '*/tools/testing/selftests/net'";
            let script = ["-e", "-o", "pipefail", "-c", unpack, "sh"];
            check(Command::new("bash").args(script).arg(file).arg(package).current_dir(root))?;
            Ok(fs::remove_file(file)?)
        })?;
        let tools = once(&cache.join("selftest-tools"), |root| self.unpack(&SELFTEST_TOOLS, cache, root))?;
        Ok((tests, tools))
    }
}

/// Calls `make` for the directory unless it was complete before.
fn once(root: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let done = root.join("unpacked");
    if !done.exists() {
        make(root)?;
        fs::write(done, "")?;
    }
    Ok(root.to_owned())
}

/// Unpacks QEMU below `cache`, unless it is unpacked already, and returns its directory.
pub(super) fn qemu(cache: &Path) -> Result<PathBuf> {
    once(&cache.join("qemu"), |root| {
        eprintln!("vm: downloading QEMU from Debian");
        Sources::configured().unpack(&QEMU, cache, root)
    })
}

/// The files of the modules `names` and of their dependencies, in the order of loading.
pub(super) fn modules(kernel: &Kernel, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for name in names {
        let shown = output(Command::new("modprobe").arg("-d").arg(&kernel.root).args([
            "-S",
            &kernel.release,
            "--show-depends",
            name,
        ]));
        // A built-in module has no file.
        let lines = shown.with_context(|| format!("Linux {} has no module {name}", kernel.release))?;
        let inserted = lines.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| file.trim().into());
        for file in inserted {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    ensure!(files.iter().all(|file| file.is_file()), "Linux {}: a module is missing after unpacking", kernel.release);
    Ok(files)
}
