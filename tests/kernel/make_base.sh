#!/usr/bin/env bash
# Makes what vm.sh boots, from Debian packages that are downloaded but not
# installed, and keeps it. Made again when something that goes into it changed;
# otherwise this returns at once, without a network.
#
# usage: make_base.sh [--fresh | --help]
#   --fresh   ask for the newest kernel again, and make everything
#
# Prints the folder that it fills: build/kernel, or $IOVAD_KERNEL_DIR. In it:
#   linux/vmlinuz, linux/version, linux/modules/*.ko
#   base.cpio    the guest's root: busybox, the modules, qemu-storage-daemon,
#                vdpa(8), init, lib.sh, and the libraries of those programs
#   base.list    the files in base.cpio, so that payloads need not carry them
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${IOVAD_KERNEL_DIR:-$(cd "$here/../.." && pwd)/build/kernel}
source_package=linux-source-6.12
# Modules of the kernel package that a guest may load (guest/lib.sh), and those
# that Debian does not build.
modules=(vdpa vhost_iotlb vhost irqbypass vhost_vdpa vduse virtio_vdpa)
sim_modules=(vringh vdpa_sim vdpa_sim_net vdpa_sim_blk)
host_programs=(qemu-storage-daemon vdpa)

say() { echo "make_base.sh: $*" >&2; }
fail() { say "$*" && exit 1; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

case ${1:-} in
  '') ;;
  --fresh) fresh=1 ;;
  --help | -h) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac

# Prints the versions of a package that can be had, newest first.
versions_of() { apt-cache madison "$1" 2>/dev/null | awk '{print $3}' | sort -rVu; }

# Prints "KERNEL PACKAGE_VERSION SIM": the newest 6.12 cloud kernel whose headers
# and source can be had in the same version, so that vdpa_sim can be built for it
# (SIM 1); without one, the newest kernel (SIM 0).
choose_kernel() {
  local kernels kernel version sources newest=
  mapfile -t kernels < <(apt-cache search --names-only '^linux-image-6\.12\..*-cloud-amd64-unsigned$' |
    sed -n 's/^linux-image-\(.*\)-cloud-amd64-unsigned .*/\1/p' | sort -rV)
  sources=$(versions_of "$source_package")
  for kernel in "${kernels[@]}"; do
    version=$(versions_of "linux-image-$kernel-cloud-amd64-unsigned" | head -1)
    [[ -n $version ]] || continue
    newest=${newest:-$kernel $version 0}
    if grep -qxF "$version" <<<"$sources" &&
      versions_of "linux-headers-$kernel-cloud-amd64" | grep -qxF "$version" &&
      versions_of "linux-headers-$kernel-common" | grep -qxF "$version" &&
      versions_of "linux-kbuild-$kernel" | grep -qxF "$version"; then
      echo "$kernel $version 1"
      return
    fi
  done
  echo "$newest"
}

# Builds vdpa_sim and vringh, which Debian leaves out, for the unpacked kernel.
# Unsigned modules taint the guest's kernel and do nothing else.
build_sim() {
  local kernel=$1 unpacked=$2 to=$3
  local headers=$unpacked/usr/src/linux-headers-$kernel-cloud-amd64
  local sources=$unpacked/sim
  mkdir -p "$sources"
  tar -C "$sources" --strip-components=3 -xf "$unpacked/usr/src/$source_package.tar.xz" \
    "$source_package/drivers/vdpa/vdpa_sim" "$source_package/drivers/vhost/vringh.c"
  mv "$sources"/vdpa_sim/*.[ch] "$sources"
  printf 'obj-m := %s\n' "${sim_modules[*]/%/.o}" >"$sources/Kbuild"
  # The headers name their other half where it would be if they were installed.
  sed -i "s# /usr/src/# $unpacked/usr/src/#" "$headers/Makefile"
  # No type information for modules: it would take pahole to make.
  nice make -s -C "$headers" M="$sources" CONFIG_DEBUG_INFO_BTF_MODULES= modules >&2
  local module
  for module in "${sim_modules[@]}"; do
    strip --strip-debug -o "$to/$module.ko" "$sources/$module.ko"
  done
}

make_linux() {
  local kernel version sim work package
  [[ -n $(versions_of "$source_package") ]] || { [[ $(id -u) -eq 0 ]] && apt-get update -qq; } ||
    fail "apt knows no $source_package: run apt-get update as root"
  read -r kernel version sim <<<"$(choose_kernel)"
  [[ -n $kernel ]] || fail 'apt knows no linux-image-6.12*-cloud-amd64-unsigned'
  work=$out/linux.work
  rm -rf "$work"
  mkdir -p "$work/unpacked" "$work/linux/modules"
  local packages=("linux-image-$kernel-cloud-amd64-unsigned=$version")
  if [[ $sim -eq 1 ]]; then
    say "Linux $kernel, with vdpa_sim built from $source_package (about 190 MB to download)"
    packages+=("linux-headers-$kernel-cloud-amd64=$version" "linux-headers-$kernel-common=$version"
      "linux-kbuild-$kernel=$version" "$source_package=$version")
  else
    say "Linux $kernel, VDUSE ONLY: no kernel has headers and $source_package of its version"
  fi
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" >&2)
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done

  cp "$work/unpacked/boot/vmlinuz-$kernel-cloud-amd64" "$work/linux/vmlinuz"
  local module
  for module in "${modules[@]}"; do
    xz -dc "$(find "$work/unpacked/lib/modules" -name "$module.ko.xz")" \
      >"$work/linux/modules/$module.ko"
  done
  [[ $sim -eq 0 ]] || build_sim "$kernel" "$work/unpacked" "$work/linux/modules"
  echo "$kernel" >"$work/linux/version"
  rm -rf "$out/linux"
  mv "$work/linux" "$out/linux"
  rm -rf "$work"
}

make_base() {
  local root=$out/base.work program folder library
  rm -rf "$root"
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,etc,modules,payload,proc,results,run,sys,tmp}
  # Like Debian's root, whose /lib is a link: libraries have one path only.
  for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
  cp "$(command -v busybox)" "$root/usr/bin/busybox"
  cp "$out"/linux/modules/*.ko "$root/modules/"
  cp "$here/guest/lib.sh" "$root/usr/lib/lib.sh"
  install -m 755 "$here/guest/init" "$root/init"
  for program in "${host_programs[@]}"; do cp "$(command -v "$program")" "$root/usr/bin/"; done
  while read -r library; do
    install -D "$library" "$root$library"
  done < <("$here/libraries.sh" "$root"/usr/bin/*)
  (cd "$root" && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort) >"$out/base.list.new"
  (cd "$root" && cpio --quiet -o -H newc -R 0:0) <"$out/base.list.new" >"$out/base.cpio.new"
  mv "$out/base.list.new" "$out/base.list"
  mv "$out/base.cpio.new" "$out/base.cpio"
  rm -rf "$root"
}

# What base.cpio depends on, as a checksum.
base_key() {
  local program
  {
    cat "$here/make_base.sh" "$here/libraries.sh" "$here/guest/init" "$here/guest/lib.sh"
    cat "$out/linux/version"
    for program in busybox "${host_programs[@]}"; do stat -L -c '%n %s %Y' "$(command -v "$program")"; done
  } | sha256sum
}

missing=()
for program in busybox cpio xz strip make gcc apt-get "${host_programs[@]}"; do
  command -v "$program" >/dev/null || missing+=("$program")
done
[[ ${#missing[@]} -eq 0 ]] || fail "not installed: ${missing[*]} (deploy/setup.sh installs what is needed)"

mkdir -p "$out"
# Several tests may want the base image at once: the first makes it.
exec 9>"$out/lock"
flock 9
[[ -z ${fresh:-} ]] || rm -rf "$out/linux" "$out/base.key"
[[ -d $out/linux ]] || make_linux
key=$(base_key)
if [[ ! -e $out/base.cpio || $(cat "$out/base.key" 2>/dev/null) != "$key" ]]; then
  make_base
  echo "$key" >"$out/base.key"
fi
echo "$out"
