# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# The programs run in the guest: a daemon, and the command line against it.
. /lib/lib.sh

start_iovad --log-level info
heading 'guest memory on a simulated device'
iovactl device open sim0 --simulated >/dev/null
iovactl space create vm1 --attach sim0 >/dev/null
iovactl map vm1 --gpa 0x100000 --hva 0x7f0000100000 --size 1M --label ram
iovactl ls vm1
iovactl ls vm1 --output json | grep -q '"gpa": *"0x100000"' || fail 'the mapping is not listed'
iovactl translate vm1 gpa:0x1ff000 >/dev/null || fail 'the last page is not mapped'
if iovactl translate vm1 gpa:0x200000 >/dev/null; then fail 'the mapping is too long'; fi

heading 'the end'
stop_iovad || fail "iovad ended with $?"
[ ! -e "$IOVAD_SOCKET" ] || fail 'the socket is still there'
