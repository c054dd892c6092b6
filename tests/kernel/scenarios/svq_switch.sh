# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# The switch to shadow virtqueues of running guests that are placed at identity. The
# devices that pin memory get the smaller guest, in huge pages (see traces.sh).
. /lib/lib.sh

mkdir /tmp/traces
mv /payload/*.jsonl /tmp/traces
export IOVAD_TEST_TRACES=/tmp/traces
ulimit -l unlimited

on_device() {
  local what=$1 device=$2 trace=$3
  shift 3
  heading "svq_switch_test on $what ($device): $trace"
  env IOVAD_TEST_DEVICE="$device" IOVAD_TEST_TRACE="$trace.sections.jsonl" "$@" \
    svq_switch_test --gtest_brief=1 || fail "$what"
}

start_iovad --log-level info
device=$(make_vduse v0 --type net)
for trace in b2_q35_128g h2_q35_svq_qemu10; do
  on_device 'VDUSE net' "$device" "$trace" IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
done
remove_device v0
if have_sim; then
  echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
  device=$(make_sim net use_va=1)
  on_device 'vdpa_sim_net use_va=1' "$device" b2_q35_128g
  remove_device sim-net
  for parameters in use_va=0 'use_va=0 batch_mapping=0'; do
    # shellcheck disable=SC2086  # several parameters
    device=$(make_sim net $parameters)
    on_device "vdpa_sim_net $parameters" "$device" i2_q35_tpm_crb_qemu10
    remove_device sim-net
  done
fi
stop_iovad || fail "iovad ended with $?"
