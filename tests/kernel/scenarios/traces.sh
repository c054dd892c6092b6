# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Recorded traces of running VMMs through iovad and to devices of every kind, which
# iovad owns or the test driver as a relay.
#
# What is seen of a device: a VDUSE device tells its table, which is compared entry by
# entry; for pinned ones the kernel counts the bytes; and of every kind, the owner asks the
# kernel which pages are taken. Guests' memory is sparse files, so that 128 GiB fit.
# Devices that pin pages make them exist, and count each run of them against 2,048
# entries: there, guests of 2 GiB at most are replayed, in huge pages. Of the vIOMMU's
# 9,758 messages, as the guest is slow, the first ones are replayed; ALL=1 (about four
# minutes more) takes all.
. /lib/lib.sh

mkdir /tmp/traces
mv /payload/*.jsonl /tmp/traces
export IOVAD_TEST_TRACES=/tmp/traces
ulimit -l unlimited

failures=0
# on_device WHAT DEVICE OWNER [VARIABLE=VALUE]...
on_device() {
  local what=$1 device=$2 owner=$3
  shift 3
  heading "traces_test on $what ($device), owned by $owner"
  env IOVAD_TEST_DEVICE="$device" IOVAD_TEST_OWNER="$owner" IOVAD_TEST_PINNED=0 "$@" \
    traces_test --gtest_brief=1 || failures=$((failures + 1))
}

start_iovad --log-level info
# shellcheck disable=SC2154  # start_iovad sets it
export IOVAD_TEST_IOVAD_PID="$iovad_pid"

device=$(make_vduse v0 --type net)
most=400
[ "${ALL:-0}" = 0 ] || most=1000000
on_device 'VDUSE net' "$device" iovad IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock \
  IOVAD_TEST_TRACE_EVENTS=$most
on_device 'VDUSE net' "$device" relay IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock \
  GTEST_FILTER='*b4*:*h2*:*f1*sections' IOVAD_TEST_TRACE_EVENTS=100
remove_device v0

if have_sim; then
  echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
  for parameters in use_va=1 use_va=0 'use_va=0 batch_mapping=0'; do
    # shellcheck disable=SC2086  # several parameters
    device=$(make_sim net $parameters)
    pinned=1
    [ "$parameters" != use_va=1 ] || pinned=0
    for owner in iovad relay; do
      # A relay asks the kernel for each page, which takes long; so does pinning.
      only='*'
      [ "$owner" = iovad ] || only='*h2*:*i2*:*f1*vdpa'
      on_device "vdpa_sim_net $parameters" "$device" "$owner" IOVAD_TEST_PINNED=$pinned \
        IOVAD_TEST_TRACE_EVENTS=100 GTEST_FILTER="$only"
    done
    remove_device sim-net
  done
else
  heading 'NO vdpa_sim IN THE BASE IMAGE: VDUSE ONLY'
fi

stop_iovad || fail "iovad ended with $?"
[ "$failures" -eq 0 ] || fail "$failures runs of the test program"
