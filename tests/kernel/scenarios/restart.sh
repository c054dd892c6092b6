# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# iovad is killed while it owns devices, and started again: without a service manager,
# and by systemd, with the unit that is installed, which keeps the descriptors.
. /lib/lib.sh

failures=0
# run FILTER [VARIABLE=VALUE]... - those tests of the test program.
run() {
  local filter=$1
  shift
  heading "restart_test $filter"
  env IOVAD_TEST_RESTART=/tmp/restart "$@" restart_test --gtest_brief=1 \
    --gtest_filter="$filter" || failures=$((failures + 1))
}

export IOVAD_SOCKET=/run/iovad/iovad.sock
# Whoever sources this has a new iovad when it returns.
cat >/tmp/gone.sh <<'END'
. /lib/lib.sh
gone() { [ "$(pidof iovad || true)" != "$old" ] && iovactl space ls; }
old=$(pidof iovad || true)
END

heading 'without a service manager'
truncate -s 1M /run/ram
cat >/tmp/restart <<'END'
. /tmp/gone.sh
[ -z "$old" ] || kill -9 "$old"
iovad --state-dir /run/iovad/state --memory-paths /run/ram >>/results/iovad.log 2>&1 &
wait_until 'the next iovad' 20 gone
END
chmod +x /tmp/restart
/tmp/restart
device=$(make_vduse v0 --type net)
run 'LostTest.*' IOVAD_TEST_DEVICE="$device" IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock \
  IOVAD_TEST_MEMORY=/run/ram
kill "$(pidof iovad)"
wait_until 'iovad to end' 10 not pidof iovad

if [ -e /payload/systemd ]; then
  heading 'by systemd'
  mkdir -p /etc/systemd/system /etc/default /etc/iovad /sys/fs/cgroup
  mount -t cgroup2 none /sys/fs/cgroup
  echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
  printf 'root:x:0:\niovad:x:900:\n' >/etc/group
  # What units depend on without saying so.
  for target in default basic sysinit shutdown umount local-fs; do
    printf '[Unit]\nDefaultDependencies=no\n' >"/etc/systemd/system/$target.target"
  done
  for unit in iovad.service iovad-relay@.service; do
    sed 's,@IOVAD_BINDIR@,/payload,' "$unit.in" >"/etc/systemd/system/$unit"
  done
  container=guest unshare -p -f -m --mount-proc systemd --system --log-target=kmsg &
  wait_until 'systemd' 20 pidof systemd
  systemd=$(pidof systemd)
  cat >/tmp/restart <<END
. /tmp/gone.sh
if [ "\${1-}" = orderly ]; then
  nsenter -t $systemd -p -m -- systemctl restart iovad || fail 'it did not restart'
else
  kill -9 "\$old"
fi
wait_until 'the next iovad' 30 gone
END
  inside() { nsenter -t "$systemd" -p -m -- "$@"; }
  wait_until 'systemctl to work' 20 inside systemctl start iovad ||
    { dmesg | tail -30; exit 1; }
  run 'KeptTest.*' IOVAD_TEST_DEVICE="$device" IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
  remove_device v0
  sector=0
  while [ "$sector" -lt 256 ]; do
    printf '%-511s\n' "sector $sector "
    sector=$((sector + 1))
  done >/run/disk
  device=$(make_disk disk /run/disk)
  run 'KeptDiskTest.*' IOVAD_TEST_DEVICE="$device"
  heading 'and told to keep no devices any more'
  iovactl device open disk "$device" >/dev/null
  iovactl space create vm1 --attach disk >/dev/null
  echo 'IOVAD_OPTIONS=--fd-store memory' >/etc/default/iovad
  /tmp/restart orderly
  iovactl space get vm1 | tee /results/space.txt
  grep -q 'disk.*live' /results/space.txt || fail 'it was not opened anew'
  iovactl space rm vm1 >/dev/null
  iovactl device close disk >/dev/null

  heading 'the same device, relayed'
  attached() { iovactl space get vm2 | grep -q 'relay0.*live'; }
  relay=iovad-relay@$(basename "$device")
  iovactl space create vm2 >/dev/null
  echo 'RELAY_OPTIONS=--space vm2 --name relay0' >"/etc/iovad/relay-${relay#*@}"
  inside systemctl start "$relay" || { inside systemctl --no-pager status "$relay"; exit 1; }
  attached || fail 'it is ready, and not attached'
  /tmp/restart
  wait_until 'the relay to come back' 20 attached
  inside systemctl --no-pager status "$relay"
  inside systemctl stop "$relay" || fail 'the relay did not stop'
  iovactl space rm vm2 >/dev/null

  inside systemctl --no-pager status iovad | tee /results/status.txt
  grep -q 'Status: "[01] space[s]*, [01] device' /results/status.txt || fail 'the status line'
  heading 'stopped'
  inside systemctl stop iovad || fail 'it did not stop'
  [ ! -e /run/iovad/state ] || fail 'the state is still there'
else
  heading 'NO systemd HERE: THE UNIT WAS NOT TRIED'
fi
[ "$failures" -eq 0 ] || fail "$failures runs of the test program"
