# The first process of a node: sets up its mounts, starts dockerd, and cleans up at the end.
#   node.sh HOSTNAME CGROUP ROOT PROGRAMS
# ROOT is the root directory of the Debian that has dockerd; PROGRAMS is the directory of the programs under test.
# Standard input is a pipe from the process that started the node. When that process ends, the node ends.
set -eu
name=$1 group=$2 root=$3 programs=$4

mount --make-rprivate /
if [ "$root" != / ]; then
    # What the node writes is in memory.
    mount -t tmpfs tmpfs /run
    mkdir /run/upper /run/work /run/root
    mount -t overlay overlay -o "lowerdir=$root,upperdir=/run/upper,workdir=/run/work" /run/root
    cd /run/root
    mkdir -p "./$programs" old
    # The packages are unpacked, not configured.
    rmdir var/run
    ln -s /run var/run
    mount --rbind "$programs" "./$programs"
    mount --rbind /dev dev
    mount --rbind /sys sys
    # Moved, not only chrooted to: commands that enter the mount namespace start at its root.
    pivot_root . old
    mount -t proc proc /proc
    umount -l /old
fi
mount -t proc proc /proc
# Data of dockerd, including images, is in memory and is removed with the mount namespace.
mount -t tmpfs tmpfs /run
mkdir -p /run/cgroup /run/docker/netns /run/lock /run/bin /run/data /run/image
# /sys of the node's network namespace, with the control groups of the machine.
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
echo "$name" >/proc/sys/kernel/hostname
echo 1 >/proc/sys/net/ipv4/ip_forward
ln -s /usr/sbin/iptables-nft /run/bin/iptables
ln -s /usr/sbin/ip6tables-nft /run/bin/ip6tables

# An image without a registry: one static binary with several names.
mkdir -p /run/image/bin /run/image/etc /run/image/tmp /run/image/proc /run/image/sys /run/image/dev
cp "$(command -v busybox)" /run/image/bin/busybox
for applet in sh sleep nc hostname; do ln -s busybox "/run/image/bin/$applet"; done
echo 'root:x:0:0:root:/tmp:/bin/sh' >/run/image/etc/passwd
tar -C /run/image -cf /run/image.tar .

cat >/run/start-dockerd <<END
exec dockerd --data-root /run/data --pidfile /run/docker.pid -H unix:///run/docker.sock --storage-driver overlay2 \
    --cgroup-parent /$group --exec-opt native.cgroupdriver=cgroupfs --live-restore=false </dev/null >>/run/dockerd.log 2>&1
END
sh /run/start-dockerd &

set +e
while read -r _; do :; done

# Containers and their containerd shims first: a control group in use cannot be removed.
kill -KILL -1
for try in $(seq 100); do
    left=
    # One hierarchy (version 2), or one for each controller (version 1).
    for directory in /sys/fs/cgroup/"$group" /sys/fs/cgroup/*/"$group"; do
        [ -d "$directory" ] || continue
        find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null
        [ -d "$directory" ] && left=yes
    done
    [ "$left" ] || exit 0
    sleep 0.05
done
echo "control groups $group are still in use" >&2
exit 1
