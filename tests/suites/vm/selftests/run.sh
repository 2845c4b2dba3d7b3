# Runs a selftest of the kernel, in a network namespace of its own.
#   run.sh SELFTESTS TOOLS SCRIPT EDIT
# SELFTESTS is the directory `net` of the kernel's selftests, TOOLS has mausezahn and jq, EDIT is an expression of sed for
# the script. Files in the working directory let the script go on: `go` before its tests, `end` before its cleanup.
set -eu
selftests=$1 tools=$2 script=$3 edit=$4 files=$PWD

# The script's names below /run/netns, and the devices of this network namespace.
mount -t tmpfs tmpfs /run
mkdir /run/netns
mount -t sysfs sysfs /sys
# `ip vrf exec` creates control groups.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp -r "$selftests" net
cd net/forwarding

# What the tests accept as configuration: a slow machine needs more time.
echo 'PING_TIMEOUT=120 WAIT_TIME=1' >forwarding.config
cat >pause <<END
pause() {
    : >"$files/\$1"
    until [ -e "$files/\$2" ]; do sleep 0.1; done
}
END
# Process 1 is not in this network namespace.
sed -i -e "$edit" -e 's/ netns 1$/ netns $$/' \
    -e 's,^test_all$,source pause; pause ready go; test_all; pause done end,' "$script"
export PATH="$tools/usr/sbin:$tools/usr/bin:$PATH" LD_LIBRARY_PATH="$tools/usr/lib/x86_64-linux-gnu"
bash "$script" >"$files/output" 2>&1 || true
: >"$files/ended"
