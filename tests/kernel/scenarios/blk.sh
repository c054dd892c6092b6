# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Real I/O on virtio-blk devices that iovad owns.
. /lib/lib.sh

failures=0
on_device() {
  local what=$1 device=$2
  shift 2
  heading "direct_blk_test on $what ($device)"
  env IOVAD_TEST_DEVICE="$device" "$@" direct_blk_test --gtest_brief=1 || failures=$((failures + 1))
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
