# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Devices that iovad owns, of every kind: opened, mapped, compared, started, closed.
. /lib/lib.sh

# on_device WHAT DEVICE [VARIABLE=VALUE]... - runs each test program on it.
failures=0
on_device() {
  local what=$1 device=$2 program
  shift 2
  for program in direct_test direct_queues_test; do
    heading "$program on $what ($device)"
    env IOVAD_TEST_DEVICE="$device" "$@" "$program" --gtest_brief=1 || failures=$((failures + 1))
  done
}

start_iovad --log-level info
for type in blk net; do
  device=$(make_vduse v0 --type "$type")
  on_device "VDUSE $type" "$device" IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
  iovactl device open v0 "$device" >"/results/vduse-$type.txt"
  iovactl device close v0
  remove_device v0
done

if have_sim; then
  for parameters in use_va=1 use_va=0 'use_va=0 batch_mapping=0'; do
    for kind in blk net; do
      # shellcheck disable=SC2086  # several parameters
      device=$(make_sim "$kind" $parameters)
      on_device "vdpa_sim_$kind $parameters" "$device"
      iovactl device open sim "$device" >"/results/sim-$kind-${parameters%% *}.txt"
      iovactl device close sim
      remove_device "sim-$kind"
    done
  done
else
  heading 'NO vdpa_sim IN THE BASE IMAGE: VDUSE ONLY'
fi

heading 'a device as people see it'
cat /results/vduse-net.txt
stop_iovad || fail "iovad ended with $?"
[ "$failures" -eq 0 ] || fail "$failures runs of test programs"
