#!/bin/busybox sh
# First process of the virtual machine. The host's root is mounted read-only through virtiofs; writes go to memory.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtiofs overlay; do modprobe "$module" 2>/dev/null; done
. /job

fail() {
    echo "cannot boot: $1"
    poweroff -f
}

mount -t virtiofs root /shared || fail "the host's root is not shared"
mount -t tmpfs -o size=60% memory /written
mkdir /written/upper /written/work /written/root
root=/written/root
mount -t overlay overlay -o lowerdir=/shared,upperdir=/written/upper,workdir=/written/work "$root" || fail "no root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t devtmpfs dev "$root/dev"
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/lib/modules"
mount -t devpts devpts "$root/dev/pts"
mount -t tmpfs memory "$root/dev/shm"
mount -t tmpfs memory "$root/run"
mount -t tmpfs memory "$root/tmp"
# The kernel's modules, and the workspace and its programs if they are in /tmp, which is a new tmpfs.
mount --bind "/shared$MODULES" "$root/usr/lib/modules" || fail "no modules"
for directory in "$WORKSPACE" "$TARGET"; do
    case $directory in /tmp/*)
        mkdir -p "$root$directory"
        mount --bind "/shared$directory" "$root$directory"
        ;;
    esac
done
ip link set lo up
# New network namespaces inherit this value, and that of the load balancer must forward.
echo 1 >/proc/sys/net/ipv4/ip_forward
# Moved, not only chrooted to: commands that enter mount namespaces start at their root. Done by this process, because
# its root is that of kernel threads, which start modprobe.
cd "$root" || fail "no root"
mount --move . /
# Starts a new line after the output of the firmware and the kernel.
echo
echo "@@booted: Linux $(uname -r)"
export COMMAND PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
# A pipe, because the console is a terminal, for which programs write progress bars and colours.
exec chroot . /bin/sh -c '{ sh -c "$COMMAND" 2>&1; echo "@@exit: $?"; } </dev/null | cat; busybox poweroff -f'
