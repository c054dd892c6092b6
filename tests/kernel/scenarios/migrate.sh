# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# A guest moves from one daemon to another, to a device that pins its memory: with the
# destination prepared, and without. ROUNDS=9 in the environment measures more often, and
# with memory in huge pages, too.
#
# The guest's clock counts instructions (vm.sh --count-time): times are those of a slow
# processor that does nothing else, whatever the machine does. Memory is in pages of 4 KiB,
# as that of /dev/shm is unless somebody says otherwise, next to each other for the most
# part, as nothing had any before: it fits into 2,048 entries.
. /lib/lib.sh

have_sim || {
  heading 'NO vdpa_sim IN THE BASE IMAGE: nothing pins memory'
  exit 0
}
ulimit -l unlimited
IOVAD_TEST_DEVICE=$(make_sim blk use_va=0)
export IOVAD_TEST_DEVICE
export IOVAD_TEST_SOURCE_SOCKET=/run/source/iovad.sock
export IOVAD_SOCKET=/run/destination/iovad.sock
start_daemon source --state-dir /run/source/state
source_pid=$daemon_pid
start_daemon destination --state-dir /run/destination/state --memory-paths /dev/shm
export IOVAD_TEST_IOVAD_PID="$daemon_pid"
IOVAD_TEST_ROUNDS=${ROUNDS:-3} IOVAD_TEST_GAIN=20 migrate_test --gtest_brief=1 ||
  fail 'migrate_test'
if [ -n "${ROUNDS:-}" ]; then
  heading 'huge pages: they are pinned by the hundred, and there is less to gain'
  mount -o remount,huge=always /dev/shm
  IOVAD_TEST_ROUNDS=$ROUNDS IOVAD_TEST_GAIN=1 migrate_test --gtest_brief=1 || fail 'migrate_test'
fi

heading 'as one types it'
here() { iovactl --socket "$IOVAD_TEST_SOURCE_SOCKET" "$@"; }
there() { iovactl "$@"; }
migrate() { here migrate "$@" --to "$IOVAD_SOCKET"; }
pinned() { sed -n 's/^VmPin:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$daemon_pid/status"; }
prepare() {
  migrate prepare vm1 --once --attach blk0 --svq 0:128 --bind-memory 0+4M=/dev/shm/vm1.ram
}
truncate -s 4M /dev/shm/vm1.ram
there device open blk0 "$IOVAD_TEST_DEVICE" >/dev/null
here space create vm1 >/dev/null
here map vm1 --gpa 0 --hva 0x7f0000000000 --size 2M --label ram >/dev/null
prepare
migrate status vm1
# With the rings.
[ "$(pinned)" -gt 2048 ] || fail "$(pinned) KiB are pinned"
migrate abort vm1
[ "$(pinned)" -eq 0 ] || fail "$(pinned) KiB are pinned"
prepare
here map vm1 --gpa 0x200000 --hva 0x7f0000200000 --size 2M --label hotplug >/dev/null
here unmap vm1 --gpa 0 >/dev/null
migrate switch vm1
there ls vm1 | grep hotplug || fail 'the last change is missing'
if there ls vm1 | grep -w ram; then fail 'what the guest unmapped is there'; fi
[ "$(pinned)" -gt 2048 ] || fail "$(pinned) KiB are pinned"

kill "$source_pid" "$daemon_pid"
wait "$source_pid" || fail "the source ended with $?"
wait "$daemon_pid" || fail "the destination ended with $?"
