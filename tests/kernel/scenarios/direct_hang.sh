# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# A VDUSE device that hangs holds up nobody but its own spaces; one whose process is
# stopped is waited for, and one whose process is killed fails what is attached to it.
. /lib/lib.sh

start_iovad --log-level info
heading 'hanging'
stuck=$(make_vduse v0 --type blk)
other=$(make_vduse v1 --type blk)
vduse_timeout v0 5
IOVAD_TEST_DEVICE=$stuck IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock IOVAD_TEST_OTHER_DEVICE=$other \
  direct_hang_test --gtest_brief=1 || fail 'direct_hang_test'

heading 'stopped, and killed'
vduse_timeout v1 5
IOVAD_TEST_DEVICE=$other IOVAD_TEST_VDUSE_SOCKET=/run/v1.sock \
  IOVAD_TEST_VDUSE_PID=$(cat /run/v1.pid) direct_stopped_test --gtest_brief=1 ||
  fail 'direct_stopped_test'
stop_iovad || fail "iovad ended with $?"
