# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# A VDUSE device that hangs holds up nobody but its own spaces.
. /lib/lib.sh

start_iovad --log-level info
stuck=$(make_vduse v0 --type blk)
other=$(make_vduse v1 --type blk)
vduse_timeout v0 5
IOVAD_TEST_DEVICE=$stuck IOVAD_TEST_VDUSE_SOCKET=/run/v0.sock IOVAD_TEST_OTHER_DEVICE=$other \
  direct_hang_test --gtest_brief=1 || fail 'direct_hang_test'
stop_iovad || fail "iovad ended with $?"
