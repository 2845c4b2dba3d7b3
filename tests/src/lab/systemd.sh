# Sets up mounts, then executes systemd as pid 1. $1: an empty directory, $2: files to add to the root directory.
set -e
root=$1/root
mkdir "$root" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
mount --make-rshared "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
# Same mode as systemd's mount.
mount -t bpf bpf "$root/sys/fs/bpf" -o mode=0700
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for directory in run tmp dev; do mount -t tmpfs tmpfs "$root/$directory"; done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
# No units except those of the test.
rm -rf "$root/etc/systemd/system" "$root"/lib/systemd/system/*.wants "$root"/usr/lib/systemd/system/*.wants
mkdir "$root/etc/systemd/system"
for target in basic sysinit lab; do
    printf '[Unit]\nDefaultDependencies=no\n' > "$root/etc/systemd/system/$target.target"
done
cp -r "$2/." "$root"
cd "$root"
export container=lab
exec chroot "$root" /lib/systemd/systemd --system --unit=lab.target --log-target=null --show-status=false
