#!/bin/sh
# The address space of a guest, with nothing but grpcurl and jq: no .proto files, no stubs, since
# the server says by reflection what it has.
#
# usage: guest.sh make SOCKET SPACE HVA BYTES    guest memory from GPA 0 on, and two queues
#        guest.sh remove SOCKET SPACE
# `make` may be run again, also after it was cut off: what was done stays, once. It prints the
# space, where the first byte is for a device, and where the queues are.
set -eu

usage() {
  sed -n 's/^# \{0,1\}//; 5,6p' "$0" >&2
  exit 2
}

# A call: its answer as JSON. When it is refused, the status is in the file $errors, as JSON too.
call() {
  grpcurl -plaintext -unix -format-error -d "$2" "$socket" "iovad.v1.$1" 2>"$errors"
}
# Why the last call was refused: "REASON_MAPPING_EXISTS". Empty when the server was not reached.
reason() {
  jq -r '.details[0].reason // empty' "$errors" 2>/dev/null || true
}
die() {
  echo "guest.sh: $(jq -r .message "$errors" 2>/dev/null || cat "$errors")" >&2
  exit 1
}

make_guest() {
  # 64-bit numbers are decimal strings in protobuf's JSON.
  hva=$(($1)) bytes=$(($2))
  # With a request id, a repeat is answered as the first one was.
  made=$(call AddressSpaceService/CreateSpace "$(jq -n --arg space "$space" \
    '{$space, request_id: $space}')") || die
  uid=$(echo "$made" | jq -r .space.uid)
  ram=$(jq -n --arg space "$space" --arg uid "$uid" --arg hva "$hva" --arg size "$bytes" '
    {$space, space_uid: $uid, mapping: {gpa: "0", $hva, $size, access: "ACCESS_READ_WRITE"}}')
  if ! call AddressSpaceService/Map "$ram" >/dev/null; then
    # Mapped before, just so.
    [ "$(reason)" = REASON_MAPPING_EXISTS ] || die
  fi
  queues=$(call AddressSpaceService/AllocSVQ "$(jq -n --arg space "$space" --arg uid "$uid" '
    {$space, space_uid: $uid, request_id: "queues",
     queues: [{queueSize: 256}, {queueIndex: 1, queueSize: 256}]}')") || die
  first=$(call DebugService/Resolve "$(jq -n --arg space "$space" \
    '{$space, address: "gpa:0x0"}')") || die
  jq -n --arg space "$space" --arg uid "$uid" --argjson first "$first" --argjson q "$queues" '
    {$space, $uid, iova: $first.pieces[0].iova,
     queues: [$q.svqs[] | {index: (.queueIndex // 0), driver: .driverIova, device: .deviceIova}]}'
}

remove_guest() {
  if ! call AddressSpaceService/DeleteSpace "$(jq -n --arg space "$space" \
    '{$space, force: true}')" >/dev/null; then
    [ "$(reason)" = REASON_SPACE_NOT_FOUND ] || die
  fi
}

[ $# -ge 3 ] || usage
command=$1 socket=$2 space=$3
shift 3
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
case $command/$# in
  make/2) make_guest "$@" ;;
  remove/0) remove_guest ;;
  *) usage ;;
esac
