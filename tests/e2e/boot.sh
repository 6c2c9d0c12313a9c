#!/bin/bash
# Boot a systemd of its own, as PID 1 of new namespaces, with nothing but the units it is given:
#
#   boot.sh CHECKOUT STUB LOG
#
# It says READY=1 to $NOTIFY_SOCKET when it has started, and ends when our standard input does.
# Of the machine it sees a read-only copy of the file system; what it writes to is in memory, or its
# start-up would empty the real /tmp. The checkout's systemd/ and the stub lie in /mnt, as where
# `.ci/setup` has run.
set -eu

if [ "${1-}" != inside ]; then
  # A control group of its own, for systemd moves everything it finds beside it.
  cgroups=$(mktemp -d)
  mount -t cgroup2 cgroup2 "$cgroups"
  group=$cgroups/rsyscall-test-$$
  mkdir "$group"
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc "$0" inside "$@" \
      >>"$3" 2>&1 </dev/null
  ) &
  read -r _ || true # until the one who started us closes it, or has died
  child=$(cat "/proc/$!/task/$!/children")
  kill -KILL ${child:-$!}
  wait $! 2>/dev/null || true
  find "$group" -depth -type d -exec rmdir {} +
  umount "$cgroups"
  rmdir "$cgroups"
  exit
fi

checkout=$2 stub=$3
install -d /mnt
mount -t tmpfs tmpfs /mnt
install -D -m 755 "$stub" /mnt/.venv/bin/rsyscall-stub
cp -r "$checkout/systemd" /mnt/
mkdir /mnt/base
cd /lib/systemd/system
cp basic.target sysinit.target sockets.target shutdown.target umount.target /mnt/base/

mount -o remount,bind,ro /
for directory in /etc/systemd/system /usr/local/bin /run /tmp /var/tmp /var/log; do
  mount -t tmpfs tmpfs "$directory"
done
mount --bind /dev/null /dev/console
mount -t proc proc /proc
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /
exec env -i container=docker PATH=/usr/bin:/bin "NOTIFY_SOCKET=$NOTIFY_SOCKET" \
  SYSTEMD_UNIT_PATH=/etc/systemd/system:/mnt/base SYSTEMD_GENERATOR_PATH=/mnt/none \
  /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=no
