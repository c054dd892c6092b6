# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Devices that pin memory, past the limit of the daemon that owns them.
. /lib/lib.sh

have_sim || {
  heading 'NO vdpa_sim IN THE BASE IMAGE: nothing pins memory'
  exit 0
}
# shellcheck disable=SC3045  # busybox has it
ulimit -l 256
start_iovad --log-level info
other=$(make_vduse v0 --type blk)
for parameters in use_va=0 'use_va=0 batch_mapping=0'; do
  # shellcheck disable=SC2086  # several parameters
  device=$(make_sim blk $parameters)
  heading "direct_memlock_test on vdpa_sim_blk $parameters"
  # shellcheck disable=SC2154  # start_iovad sets it
  IOVAD_TEST_DEVICE=$device IOVAD_TEST_OTHER_DEVICE=$other IOVAD_TEST_IOVAD_PID=$iovad_pid \
    IOVAD_TEST_OTHER_VDUSE_SOCKET=/run/v0.sock direct_memlock_test --gtest_brief=1 ||
    fail "$parameters"
  remove_device sim-blk
done
stop_iovad || fail "iovad ended with $?"
