//! QEMU and Debian's kernels, unpacked instead of installed: their installation could remove other packages.

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

/// A kernel of Debian, unpacked.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// The directory with `lib/modules`.
    pub(super) root: PathBuf,
    pub(super) release: String,
}

/// Unpacks QEMU below `cache`, unless it is unpacked already, and returns its directory.
pub(super) fn qemu(cache: &Path) -> Result<PathBuf> {
    let root = cache.join("qemu");
    let done = root.join("unpacked");
    if !done.exists() {
        eprintln!("vm: downloading QEMU from Debian");
        unpack(&QEMU, &cache.join("packages"), &root)?;
        fs::write(done, "")?;
    }
    Ok(root)
}

/// Unpacks the newest kernel of a series below `cache`, unless it is unpacked already.
pub(super) fn kernel(package: &str, cache: &Path) -> Result<Kernel> {
    let depends = output(Command::new("apt-cache").args(["depends", package])).unwrap_or_default();
    let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let release = image.with_context(|| format!("the package sources have no {package}"))?.to_owned();
    let root = cache.join(&release);
    let done = root.join("unpacked");
    if !done.exists() {
        eprintln!("vm: downloading Linux {release} from Debian");
        unpack(&[&format!("linux-image-{release}")], &cache.join("packages"), &root)?;
        check(Command::new("depmod").arg("-b").arg(&root).arg(&release))?;
        fs::write(done, "")?;
    }
    Ok(Kernel { image: root.join(format!("boot/vmlinuz-{release}")), root, release })
}

/// Downloads packages from the configured package sources and unpacks them.
fn unpack(packages: &[&str], downloads: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(downloads)?;
    fs::create_dir_all(root)?;
    let download = |packages: &[&str]| {
        let options = ["-q", "-o", "APT::Sandbox::User=root", "download"];
        check(Command::new("apt-get").args(options).args(packages).current_dir(downloads))
    };
    if download(packages).is_err() {
        check(Command::new("apt-get").args(["-q", "update"]))?;
        download(packages)?;
    }
    for package in packages {
        let prefix = format!("{package}_");
        let found = fs::read_dir(downloads)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
        let Some(file) = found else { bail!("{package} was not downloaded") };
        check(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(root))?;
        fs::remove_file(file)?;
    }
    Ok(())
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
