# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# iovad is killed again and again, and finds everything again: spaces on devices that it
# owns itself, and on devices of relays that live on. KILLS=200 in the environment is ten
# times as often as usual; SEED=N repeats a run.
. /lib/lib.sh

ulimit -l unlimited
IOVAD_TEST_DEVICE=$(make_vduse v0 --type net)
IOVAD_TEST_RELAY_DEVICE=$(make_vduse v1 --type net)
export IOVAD_TEST_DEVICE IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
export IOVAD_TEST_RELAY_DEVICE IOVAD_TEST_RELAY_VDUSE_SOCKET=/run/v1.sock
if have_sim; then
  IOVAD_TEST_PINNED_DEVICE=$(make_sim blk use_va=0)
  IOVAD_TEST_PINNED_RELAY_DEVICE=$(add_device sim-other vdpasim_blk)
  export IOVAD_TEST_PINNED_DEVICE IOVAD_TEST_PINNED_RELAY_DEVICE
else
  heading 'NO vdpa_sim IN THE BASE IMAGE: VDUSE ONLY'
fi
export IOVAD_SOCKET=/run/iovad.sock IOVAD_TEST_STATE=/run/state
[ -z "${SEED:-}" ] || export IOVAD_TEST_SEED="$SEED"
IOVAD_TEST_KILLS=${KILLS:-20} crash_test --gtest_brief=1 || fail 'crash_test'
