# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Devices that refuse in the middle of a batch, for real causes, each at every point: an
# entry that iovad does not know of, a table that is full, a limit of locked memory that
# also keeps the batch from being taken back. (More of the latter: direct_memlock.sh. A
# process that stops answering: direct_hang.sh.)
. /lib/lib.sh

ulimit -l unlimited
on_device() {
  local what=$1 device=$2
  shift 2
  heading "faults_test on $what ($device)"
  env IOVAD_TEST_DEVICE="$device" "$@" faults_test --gtest_brief=1 || fail "$what"
}

start_iovad --log-level info
device=$(make_vduse v0 --type net)
on_device 'VDUSE net' "$device" IOVAD_TEST_PINNED=0 IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
remove_device v0
if have_sim; then
  for parameters in use_va=1 use_va=0 'use_va=0 batch_mapping=0'; do
    # shellcheck disable=SC2086  # several parameters
    device=$(make_sim net $parameters)
    pinned=1
    [ "$parameters" != use_va=1 ] || pinned=0
    on_device "vdpa_sim_net $parameters" "$device" IOVAD_TEST_PINNED=$pinned
    remove_device sim-net
  done
fi
stop_iovad || fail "iovad ended with $?"
