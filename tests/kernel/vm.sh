#!/usr/bin/env bash
# Boots Linux 6.12 with the vDPA modules in QEMU, runs a command in it as root
# and ends as the command ended. The guest is made in memory from the base image
# (make_base.sh) and the payload; any number of them may run at once.
#
# usage: vm.sh [OPTION]... [FILE|FOLDER]... -- COMMAND [ARG]...
#   --timeout S    how long the guest may take (60)
#   --cpus N       virtual processors (1; take 2 for what should race)
#   --memory MIB   (2048)
#   --count-time   an instruction is a nanosecond of the guest's time, whatever else
#                  this machine does; one processor
#   --append TEXT  more parameters for the guest's kernel
#   --results DIR  copies here what is in the guest's /results at the end, with
#                  dmesg.txt and console.txt
#
# Files, and what is in folders, go to the guest's /payload, which is in its PATH
# and its working directory; programs bring their libraries along. The guest has
# busybox, vdpa(8), qemu-storage-daemon and the functions in guest/lib.sh.
#
#   vm.sh build/release/bin/iovad my.sh -- sh my.sh
#
# exit status: the command's; 77: skipped, since there is no QEMU; 124: took
# longer than S seconds; 125: the guest died, or could not be made
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
say() { echo "vm.sh: $*" >&2; }

timeout=60 cpus=1 memory=2048 append='' results='' payload=() threads=multi clock=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --timeout | --cpus | --memory | --append | --results)
      [[ $# -gt 1 ]] || { usage >&2 && exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    --count-time)
      threads=single clock=(-icount "shift=0,sleep=off")
      shift
      ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    -*) usage >&2 && exit 2 ;;
    *) payload+=("$1") && shift ;;
  esac
done
[[ $# -gt 0 ]] || { usage >&2 && exit 2; }

if ! command -v qemu-system-x86_64 >/dev/null; then
  echo 'SKIPPED: NO TEST WITH A REAL KERNEL RUNS HERE: qemu-system-x86_64 is not installed' \
    '(deploy/setup.sh installs it on Debian)'
  exit 77
fi

base=$("$here/make_base.sh") || exit 125
scratch=$(mktemp -d "${TMPDIR:-/tmp}/iovad-vm.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# The payload, and the libraries that are not in the base image.
root=$scratch/root
mkdir -p "$root/payload"
for item in "${payload[@]}"; do
  if [[ -d $item ]]; then cp -RL "$item/." "$root/payload"; else cp -L "$item" "$root/payload"; fi
done
mapfile -d '' programs < <(find "$root/payload" -type f -perm -100 -print0)
if [[ ${#programs[@]} -gt 0 ]]; then
  while read -r library; do
    grep -qxF "${library#/}" "$base/base.list" || install -D "$library" "$root$library"
  done < <("$here/libraries.sh" "${programs[@]}")
  # Scripts are no object files; all else is only in the way of a quick boot.
  for program in "${programs[@]}"; do strip --strip-debug "$program" 2>/dev/null || true; done
fi
echo "$timeout" >"$root/payload/.timeout"
echo "${@@Q}" >"$root/payload/.command"
# The kernel unpacks archives one after the other; later files win.
{
  cat "$base/base.cpio"
  cd "$root" && find . -mindepth 1 -printf '%P\n' | cpio --quiet -o -H newc -R 0:0
} >"$scratch/initrd"
rm -rf "$root"

# Emulated, not KVM: nested virtualization is not everywhere, and where it is
# may emulate too little of the processor. On a busy machine the kernel would find
# the emulated TSC unstable and patch its own code while another processor runs it,
# which TCG does not always survive: it is told to trust it. What fails in the guest's
# kernel is to end the guest rather than to go unseen. The output goes through a pipe,
# as QEMU opens /dev/stdout for itself and would write over a plain file.
status=0
timeout --kill-after=5 $((timeout + 30)) qemu-system-x86_64 \
  -accel "tcg,thread=$threads" "${clock[@]}" -machine q35 -cpu Nehalem -smp "$cpus" -m "$memory" \
  -kernel "$base/linux/vmlinuz" -initrd "$scratch/initrd" \
  -append "console=ttyS0 quiet panic=-1 oops=panic reboot=t mitigations=off tsc=reliable $append" \
  -no-reboot -nodefaults -display none -monitor none -serial "file:$scratch/console.txt" \
  -device virtio-serial-pci \
  -chardev file,id=output,path=/dev/stdout,append=on \
  -device virtserialport,chardev=output,name=output \
  -chardev "file,id=results,path=$scratch/results.tar" \
  -device virtserialport,chardev=results,name=results \
  </dev/null | cat || status=${PIPESTATUS[0]}

mkdir "$scratch/results"
tar -C "$scratch/results" -xf "$scratch/results.tar" 2>/dev/null || true
cp "$scratch/console.txt" "$scratch/results/"
guest_status=$(cat "$scratch/results/.status" 2>/dev/null || true)
if [[ -n $results ]]; then
  # An earlier guest's go; what is not a guest's stays.
  [[ ! -e $results/.status ]] || rm -rf "$results"
  mkdir -p "$results"
  cp -R "$scratch/results/." "$results"
fi
if grep -E 'BUG:|Oops|WARNING:|blocked for more than' "$scratch/results/dmesg.txt" 2>/dev/null >&2; then
  say "the guest's kernel complained: see above, and dmesg.txt"
fi
if [[ -n $guest_status ]]; then
  exit "$guest_status"
elif [[ $status -eq 124 || $status -eq 137 ]]; then
  say "the guest did not end within $timeout s; its console:"
  tail -20 "$scratch/console.txt" >&2
  exit 124
else
  say 'the guest died; its console:'
  tail -40 "$scratch/console.txt" >&2
  exit 125
fi
