# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# Measures what pushing costs, what coalescing saves, and what a stuck device costs
# others. The figures are printed, and in /results/figures.json; none of them fails a
# test. One processor, so that nothing runs beside what is measured. What takes long is
# done once; with ROUNDS=21 in the environment so often, and on VDUSE, too (half an hour).
. /lib/lib.sh

export IOVAD_TEST_FIGURES=/tmp/figures
# measure ON DEVICE PROGRAM FILTER [VARIABLE=VALUE]...
measure() {
  local on=$1 device=$2 program=$3 filter=$4
  shift 4
  env IOVAD_TEST_FIGURES_ON="$on" IOVAD_TEST_DEVICE="$device" "$@" \
    "$program" --gtest_brief=1 --gtest_filter="$filter" || fail "$program on $on"
}

heading 'batches, against the bare system calls'
device=$(make_vduse v0)
measure 'VDUSE' "$device" vhost_vdpa_cost_test '*'
if have_sim; then
  for parameters in use_va=1 use_va=0; do
    sim=$(make_sim blk $parameters)
    measure "sim $parameters" "$sim" vhost_vdpa_cost_test '*'
    remove_device sim-blk
  done
fi

start_iovad --log-level info
heading 'Maps that are coalesced, and one by one'
if have_sim; then
  sim=$(make_sim blk use_va=1)
  measure 'sim use_va=1' "$sim" figures_test '*Coalesced*' IOVAD_TEST_ROUNDS="${ROUNDS:-1}"
  remove_device sim-blk
fi
# Each change costs more where another process reads the table: a minute.
if [ -n "${ROUNDS:-}" ] || ! have_sim; then
  measure 'VDUSE' "$device" figures_test '*Coalesced*' IOVAD_TEST_ROUNDS="${ROUNDS:-1}" \
    IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock
fi

heading 'Maps beside a stuck device'
other=$(make_vduse v1)
vduse_timeout v0 60
measure 'VDUSE' "$device" figures_test '*Stuck*' IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock \
  IOVAD_TEST_OTHER_DEVICE="$other"
stop_iovad || fail "iovad ended with $?"

{
  echo '['
  sed '$!s/$/,/' "$IOVAD_TEST_FIGURES"
  echo ']'
} >/results/figures.json
