# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Real I/O on virtio-blk devices, owned by iovad and by the test driver as a relay.
. /lib/lib.sh

failures=0
on_device() {
  local what=$1 device=$2 owner
  shift 2
  for owner in iovad relay; do
    heading "blk_test on $what ($device), owned by $owner"
    env IOVAD_TEST_DEVICE="$device" IOVAD_TEST_OWNER="$owner" "$@" blk_test --gtest_brief=1 ||
      failures=$((failures + 1))
  done
}

start_iovad --log-level info

# Each sector says which one it is.
disk=/tmp/disk
sector=0
while [ "$sector" -lt 256 ]; do
  printf '%-511s\n' "sector $sector "
  sector=$((sector + 1))
done >"$disk"
device=$(make_disk disk "$disk")
on_device 'qemu-storage-daemon over VDUSE' "$device" IOVAD_TEST_DISK="$disk"

if have_sim; then
  for parameters in use_va=1 use_va=0 'use_va=0 batch_mapping=0'; do
    # shellcheck disable=SC2086  # several parameters
    device=$(make_sim blk $parameters)
    on_device "vdpa_sim_blk $parameters" "$device"
    remove_device sim-blk
  done
fi

stop_iovad || fail "iovad ended with $?"
[ "$failures" -eq 0 ] || fail "$failures runs of test programs"
