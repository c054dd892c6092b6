# shellcheck shell=dash source=tests/kernel/guest/lib.sh
# A QEMU whose plugin owns a device, with its firmware for a guest: the device maps what
# the space has, whatever becomes of iovad; and one device has one owner.
. /lib/lib.sh

export QEMU_MODULE_DIR=/payload

# begin_qemu NAME [ARGUMENT]... - $qemu_pid; what it says is in /results/NAME.log.
begin_qemu() {
  local name=$1
  shift
  qemu-system-x86_64 -L /payload -accel tcg -nodefaults -no-user-config -display none \
    -machine q35,memory-backend=ram0 -m 64M \
    -object memory-backend-memfd,id=ram0,size=64M,share=on \
    -qmp "unix:/run/$name.qmp,server=on,wait=off" "$@" >"/results/$name.log" 2>&1 &
  qemu_pid=$!
}
# plugin NAME DEVICE - the argument of -plugin.
plugin() {
  echo "/payload/libiovad-qemu-plugin.so,socket=$IOVAD_SOCKET,space=$1,qmp=/run/$1.qmp,relay=$2"
}

# "FIRST LAST ACCESS OFFSET", by IOVA: what the device has, and what the space has. The
# guest's memory is one file, in which each byte has its GPA's place.
table() {
  ask_vduse "$1" dump now | awk '/^0x/ { print $1, $2, $3 == "r" ? "ro" : $3, $4 }' | sort
}
space() {
  iovactl ls "$1" | awk '$2 ~ /^0x.*-0x/ {
    split($2, iova, "-")
    # SIZE has a human part or not.
    gpa = $4 ~ /^\(/ ? $6 : $4
    access = $4 ~ /^\(/ ? $8 : $6
    print iova[1], iova[2], access, gpa == "0x0" ? "0" : gpa
  }' | sort
}
# equal SPACE NAME - that the device has all of the space, and that it is not empty.
equal() {
  space "$1" >/tmp/space && table "$2" >/tmp/table && [ -s /tmp/space ] && cmp -s /tmp/space /tmp/table
}
# The firmware has locked its memory, as it does last.
booted() { equal "$@" && grep -q ' ro ' /tmp/table; }
empty() { [ -z "$(table "$1")" ]; }
no_space() { ! iovactl space get "$1" 2>/dev/null; }

# For the device that pins: it takes an entry for each stretch of physical memory.
load vhost_vdpa max_iotlb_entries=65536
start_iovad --log-level info --owner-grace 1
v0=$(make_vduse v0 --type net)

heading "a QEMU with $v0"
begin_qemu vm1 -plugin "$(plugin vm1 "$v0")"
wait_until 'the device to have what the space has' 60 equal vm1 v0
wait_until 'the firmware to be done' 120 booted vm1 v0
cat /tmp/table
iovactl space get vm1 | grep 'vhost-vdpa-0.*live' || fail 'not attached'

heading 'the device is taken'
first_pid=$qemu_pid
begin_qemu vm2 -plugin "$(plugin vm2 "$v0")"
! wait "$qemu_pid" || fail 'a second QEMU took the device'
grep 'relay=.*EBUSY' /results/vm2.log || fail "$(cat /results/vm2.log)"
# By QEMU itself, which drives it.
v1=$(make_vduse v1 --type net)
begin_qemu vm2 -netdev "vhost-vdpa,id=n0,vhostdev=$v1" -plugin "$(plugin vm2 "$v1")"
! wait "$qemu_pid" || fail 'the plugin took the device of QEMU'
grep 'relay=.*EBUSY' /results/vm2.log || fail "$(cat /results/vm2.log)"

heading 'iovad is killed, and started again'
cp /tmp/table /tmp/before
kill -9 "$iovad_pid"
wait_until 'the plugin to notice' 30 grep -q 'cannot reach' /results/vm1.log
table v0 | cmp - /tmp/before || fail 'the device lost its table'
start_iovad --log-level info --owner-grace 1
wait_until 'the device to have what the space has' 60 booted vm1 v0
cat /results/vm1.log

heading 'QEMU ends'
kill "$first_pid"
wait "$first_pid" || fail "QEMU ended with $?"
empty v0 || fail 'the device still maps something'
no_space vm1 || fail 'the space is still there'

heading 'QEMU is killed'
begin_qemu vm1 -plugin "$(plugin vm1 "$v0")" -S
wait_until 'the device to have what the space has' 60 equal vm1 v0
kill -9 "$qemu_pid"
wait "$qemu_pid" || true
wait_until 'the grace time to be over' 30 no_space vm1
# The device keeps what it had, which nobody tells it to drop, until its next owner comes.
begin_qemu vm1 -plugin "$(plugin vm1 "$v0")" -S
wait_until 'the device to have what the space has' 60 equal vm1 v0

heading 'QEMU ends while iovad hangs'
kill -STOP "$iovad_pid"
kill "$qemu_pid"
wait "$qemu_pid" || fail "QEMU ended with $?"
empty v0 || fail 'the device still maps something'
kill -CONT "$iovad_pid"
wait_until 'iovad to remove the space' 30 no_space vm1

if have_sim; then
  heading 'a device that pins pages has private memory, too'
  ulimit -l unlimited
  sim=$(make_sim net use_va=0 max_iotlb_entries=65536)
  begin_qemu vm1 -plugin "$(plugin vm1 "$sim")" -S
  live() { iovactl space get vm1 | grep -q 'vhost-vdpa.*live'; }
  wait_until 'the device to be attached' 60 live
  iovactl ls vm1 | grep pc.bios || fail 'no ROM'
  kill "$qemu_pid"
  wait "$qemu_pid" || fail "QEMU ended with $?"
fi
stop_iovad || fail "iovad ended with $?"
