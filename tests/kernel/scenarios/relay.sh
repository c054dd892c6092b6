# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Devices that `iovactl relay` owns, of every kind; killed in the middle of batches;
# and an iovad that is killed and started again while a device is being relayed.
. /lib/lib.sh

failures=0
# on_device WHAT DEVICE [VARIABLE=VALUE]... - runs the test program on it.
on_device() {
  local what=$1 device=$2
  shift 2
  heading "relay_test on $what ($device)"
  env IOVAD_TEST_DEVICE="$device" "$@" relay_test --gtest_brief=1 || failures=$((failures + 1))
}

start_iovad --log-level info
device=$(make_vduse v0 --type net)
on_device 'VDUSE net' "$device" IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
remove_device v0
if have_sim; then
  for parameters in use_va=1 use_va=0 'use_va=0 batch_mapping=0'; do
    # shellcheck disable=SC2086  # several parameters
    device=$(make_sim net $parameters)
    on_device "vdpa_sim_net $parameters" "$device"
    remove_device sim-net
  done
else
  heading 'NO vdpa_sim IN THE BASE IMAGE: VDUSE ONLY'
fi
stop_iovad || fail "iovad ended with $?"
[ "$failures" -eq 0 ] || fail "$failures runs of the test program"

heading 'iovad is killed, and started again, while the relay lives'
truncate -s 1M /tmp/ram
make_space() {
  iovactl space create vm1 --placement first-fit >/dev/null
  iovactl memory register vm1 0x7f0000000000 1M /tmp/ram >/dev/null
  iovactl map vm1 --gpa 0 --hva 0x7f0000000000 --size 64K >/dev/null
  iovactl map vm1 --gpa 0x100000 --hva 0x7f0000040000 --size 256K >/dev/null
}
attached() { iovactl space get vm1 | grep -q 'relay0.*live'; }
entries() { ask_vduse v1 dump | grep '^0x' || true; }
updates() { ask_vduse v1 state | sed -n 's/.*updates[ =]*\([0-9]*\).*/\1/p'; }

start_iovad --log-level info
make_space
device=$(make_vduse v1 --type net)
iovactl relay --device "$device" --name relay0 --space vm1 --verbose >/results/relay.log 2>&1 &
relay=$!
wait_until 'the relay to attach' 10 attached
entries >/tmp/before
cat /tmp/before
[ "$(wc -l </tmp/before)" -eq 2 ] || fail 'not two entries'
told=$(updates)

kill -9 "$iovad_pid"
wait_until 'the relay to notice' 10 grep -q disconnected /results/relay.log
entries | cmp - /tmp/before || fail 'the device lost its table'
# Until the space is as it was: what the relay would find before is another one.
kill -STOP "$relay"
start_iovad --log-level info
make_space
kill -CONT "$relay"
wait_until 'the relay to come back' 20 attached
entries | cmp - /tmp/before || fail 'the table is another one'
# What stays is left alone: the device was told nothing.
[ "$(updates)" = "$told" ] || fail "the device was told of changes: $told, then $(updates)"
iovactl unmap vm1 --gpa 0 >/dev/null
[ "$(entries | wc -l)" -eq 1 ] || fail 'the unmapped entry is still there'

heading 'what the relay said'
kill "$relay"
wait "$relay" || fail "the relay ended with $?"
cat /results/relay.log
[ -z "$(entries)" ] || fail 'the device still maps something'
stop_iovad || fail "iovad ended with $?"

heading 'a program in C gives the library its descriptor'
remove_device v1
device=$(make_vduse v1 --type net)
start_keeping() {
  start_daemon iovad --state-dir /run/iovad/state --log-level info
  iovad_pid=$daemon_pid
}
mapped() { [ "$(entries | wc -l)" -eq "$1" ] || fail "$(entries | wc -l) entries, not $1"; }
at_step() { wait_until "c_device to be at '$1'" 60 test -e "/tmp/step.$1"; }
go_on() { touch "/tmp/go.$1"; }
cat >/tmp/look <<'END'
touch "/tmp/step.$1"
for i in $(seq 600); do
  [ -e "/tmp/go.$1" ] && exit 0
  sleep 0.1
done
exit 1
END
start_keeping
c_device "$IOVAD_SOCKET" "$device" 'sh /tmp/look' >/results/c_device.log 2>&1 &
owner=$!
at_step mapped && mapped 1 && go_on mapped
at_step changed && mapped 1 && go_on changed
entries | grep -q ' r ' || fail 'what was mapped to be read can be written'
at_step without-server
entries >/tmp/before
kill -9 "$iovad_pid"
entries | cmp - /tmp/before || fail 'the device lost its table'
start_keeping
go_on without-server
at_step with-server && mapped 2 && go_on with-server
at_step stopped && mapped 0 && go_on stopped
wait "$owner" || fail "c_device ended with $?"
cat /results/c_device.log
stop_iovad || fail "iovad ended with $?"
