# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# The programs run in the guest: a daemon, and the command line against it.
. /lib/lib.sh

start_iovad --log-level info
heading 'a space with a mapping, on a simulated device'
iovactl device open sim0 --simulated
iovactl space create vm1
iovactl map --help >/dev/null
iovactl space ls
stop_iovad
