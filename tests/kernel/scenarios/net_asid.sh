# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# A network device's queues in two address spaces, with data.
. /lib/lib.sh

have_sim || {
  heading 'NO vdpa_sim IN THE BASE IMAGE: no device has two address spaces'
  exit 0
}
start_iovad --log-level info
for parameters in use_va=1 use_va=0 'use_va=0 batch_mapping=0'; do
  # shellcheck disable=SC2086  # several parameters
  device=$(make_sim net $parameters)
  heading "net_asid_test on vdpa_sim_net $parameters"
  IOVAD_TEST_DEVICE=$device net_asid_test --gtest_brief=1 || fail "$parameters"
  remove_device sim-net
done
stop_iovad || fail "iovad ended with $?"
