# shellcheck shell=dash
# Functions for scripts that run in the guest: kernel modules, vDPA devices of
# every kind, the daemon. Source it: . /lib/lib.sh
#
# A function that fails says why on stderr and ends the (sub)shell.
#
#   . /lib/lib.sh
#   device=$(make_vduse v0)              # /dev/vhost-vdpa-0; v0's socket is /run/v0.sock
#   device=$(make_sim blk use_va=0 batch_mapping=0)
#   remove_device sim-blk
#   ask_vduse v0 dump
#   start_iovad --log-level debug; iovactl space create vm1
set -eu

heading() { echo "-- $*"; }

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# wait_for FILE [SECONDS] - until it exists (10 s unless told).
wait_for() {
  wait_until "$1 to appear" "${2:-10}" test -e "$1"
}

# wait_until WHAT SECONDS COMMAND [ARG]... - until the command succeeds.
wait_until() {
  local what=$1 tries=$(($2 * 20))
  shift 2
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "waited in vain for $what"
    sleep 0.05
  done
}

# load MODULE [PARAMETER=VALUE]... - loads it, and before it what it needs. One
# that is there already stays as it is: load with parameters comes first.
load() {
  local module=$1 needs='' need
  shift
  [ ! -d "/sys/module/$module" ] || return 0
  case $module in
    vhost) needs=vhost_iotlb ;;
    vhost_vdpa) needs='vdpa vhost irqbypass' ;;
    vduse) needs='vdpa vhost_iotlb' ;;
    virtio_vdpa) needs=vdpa ;;
    vringh) needs='vhost_iotlb' ;;
    vdpa_sim) needs='vdpa vringh' ;;
    vdpa_sim_net | vdpa_sim_blk) needs=vdpa_sim ;;
  esac
  for need in $needs; do load "$need"; done
  insmod "/modules/$module.ko" "$@" || fail "insmod $module $*"
}

# unload MODULE... - those that are loaded.
unload() {
  local module
  for module in "$@"; do
    [ ! -d "/sys/module/$module" ] || rmmod "$module" || fail "rmmod $module"
  done
}

# Whether the base image has the simulator (see make_base.sh).
have_sim() { [ -e /modules/vdpa_sim.ko ]; }

# device_path NAME - prints the character device of a vDPA device.
device_path() {
  local node
  wait_until "vhost-vdpa to take $1" 10 test_vhost_vdpa "$1"
  node=/dev/$(basename /sys/bus/vdpa/devices/"$1"/vhost-vdpa-*)
  wait_for "$node"
  echo "$node"
}

test_vhost_vdpa() { ls -d /sys/bus/vdpa/devices/"$1"/vhost-vdpa-*; }

# add_device NAME MANAGER [ARG]... - vdpa dev add, and prints the device's path.
add_device() {
  local name=$1 manager=$2
  shift 2
  vdpa dev add name "$name" mgmtdev "$manager" "$@" >&2 || fail "vdpa dev add name $name"
  device_path "$name"
}

# remove_device NAME - the vDPA device; a vduse_device of that name ends, too.
remove_device() {
  vdpa dev del "$1" || fail "vdpa dev del $1"
  if [ -e "/run/$1.pid" ]; then
    kill "$(cat "/run/$1.pid")"
    wait_until "vduse_device $1 to end" 10 not test -e "/dev/vduse/$1"
    rm -f "/run/$1.pid" "/run/$1.sock"
  fi
}

not() { ! "$@"; }

# make_vduse NAME [OPTION]... - a VDUSE device by our own vduse_device, which has
# to be in the payload. Prints the device's path; /run/NAME.sock answers
# questions about it, /results/NAME.log is its log.
make_vduse() {
  local name=$1
  shift
  load vhost_vdpa
  load vduse
  vduse_device --name "$name" --socket "/run/$name.sock" "$@" >"/results/$name.log" 2>&1 &
  echo $! >"/run/$name.pid"
  wait_for "/run/$name.sock"
  add_device "$name" vduse
}

# ask_vduse NAME COMMAND... - the answer of a device that make_vduse made.
ask_vduse() {
  local name=$1
  shift
  vduse_device --ask "/run/$name.sock" "$@"
}

# vduse_timeout NAME SECONDS - how long the kernel waits for the device's answers.
vduse_timeout() { echo "$2" >"/sys/class/vduse/$1/msg_timeout"; }

# make_disk NAME FILE - a VDUSE block device with a working data path, by
# qemu-storage-daemon, on a file of raw data. Prints the device's path.
make_disk() {
  load vhost_vdpa
  load vduse
  qemu-storage-daemon --blockdev "driver=file,node-name=file-$1,filename=$2" \
    --blockdev "driver=raw,node-name=disk-$1,file=file-$1" \
    --export "type=vduse-blk,id=$1,name=$1,node-name=disk-$1,writable=on,num-queues=1,queue-size=128" \
    >"/results/$1.log" 2>&1 &
  echo $! >"/run/$1.pid"
  wait_for "/dev/vduse/$1"
  add_device "$1" vduse
}

# make_sim net|blk [PARAMETER=VALUE]... - the simulated device sim-net or sim-blk
# with vdpa_sim's parameters: use_va=1 (the default; 0: pages are pinned),
# batch_mapping=1 (0: the device takes one map at a time), max_iotlb_entries=2048.
# The module is loaded anew, so no other simulated device may be there.
make_sim() {
  local kind=$1
  shift
  have_sim || fail 'this base image has no vdpa_sim'
  load vhost_vdpa
  unload vdpa_sim_net vdpa_sim_blk vdpa_sim
  load vdpa_sim "$@"
  load "vdpa_sim_$kind"
  case $kind in
    net) add_device sim-net vdpasim_net mac 02:00:00:00:00:01 ;;
    blk) add_device sim-blk vdpasim_blk ;;
    *) fail "make_sim: no such kind of device: $kind" ;;
  esac
}

# start_daemon NAME [OPTION]... - an iovad; ready when this returns. Its socket is
# /run/NAME/iovad.sock, its log /results/NAME.log, its process $daemon_pid.
start_daemon() {
  local name=$1
  shift
  mkdir -p "/run/$name"
  iovad --socket "/run/$name/iovad.sock" "$@" >"/results/$name.log" 2>&1 &
  daemon_pid=$!
  wait_until "$name to answer" 20 iovactl --socket "/run/$name/iovad.sock" space ls
}

# start_iovad [OPTION]... - the daemon, without state; ready when this returns,
# and iovactl finds it. $iovad_pid is the process, /results/iovad.log its log.
start_iovad() {
  export IOVAD_SOCKET=/run/iovad/iovad.sock
  start_daemon iovad --ephemeral "$@"
  iovad_pid=$daemon_pid
}

# stop_iovad - by SIGTERM; returns the daemon's exit status.
stop_iovad() {
  kill "$iovad_pid"
  wait "$iovad_pid"
}
