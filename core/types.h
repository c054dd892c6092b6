// Strong types for the addresses, identifiers and ranges that an IOVA space is
// made of.
//
// Purpose. IOVA, GPA and HVA are all 64-bit numbers and easily confused; here
// they are distinct types, so that mixing them does not compile. Ranges are
// inclusive on both ends, so that a range which ends at 2^64 - 1 (legal in
// virtio and in vhost) needs no special case.
//
// Thread safety. Plain values; as safe as an int.
//
// Invariants.
//  1. A `Range<A>` always has first <= last: it holds at least one byte.
//  2. Nothing in here wraps around: an operation that could is checked and
//     returns an optional.
//
// Example:
//   std::optional<IovaRange> r = IovaRange::FromSize(Iova(0x1000), 0x2000);
//   r->last();                         // Iova(0x2fff)
//   r->Contains(Iova(0x2fff));         // true
//   Gpa(0) == Iova(0);                 // does not compile
#ifndef IOVAD_CORE_TYPES_H_
#define IOVAD_CORE_TYPES_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

namespace iovad {

// A number that means one thing. `Tag` tells the kinds apart; `Rep` is how wide
// it is.
template <typename Tag, typename Rep>
class StrongNumber {
 public:
  using RepType = Rep;

  constexpr StrongNumber() = default;
  constexpr explicit StrongNumber(Rep value) : value_(value) {}

  constexpr Rep value() const { return value_; }

  friend constexpr auto operator<=>(StrongNumber, StrongNumber) = default;

  template <typename H>
  friend H AbslHashValue(H h, StrongNumber n) {
    return H::combine(std::move(h), n.value_);
  }

 private:
  Rep value_ = 0;
};

// I/O virtual address: what a device puts on the bus.
using Iova = StrongNumber<struct IovaTag, uint64_t>;
// Guest-physical address: what the guest's driver puts into descriptors. With a
// vIOMMU in the guest, the guest's own IOVA.
using Gpa = StrongNumber<struct GpaTag, uint64_t>;
// Host virtual address, in the address space of the process that owns the
// memory.
using Hva = StrongNumber<struct HvaTag, uint64_t>;
// Address-space identifier of a vDPA device (VHOST_BACKEND_F_IOTLB_ASID).
using Asid = StrongNumber<struct AsidTag, uint32_t>;
// Names a mapping inside its space. Starts at 1, rises, is never reused.
using MappingId = StrongNumber<struct MappingIdTag, uint64_t>;
// Counts the acknowledged changes of a space. A new space is at revision 1.
using Revision = StrongNumber<struct RevisionTag, uint64_t>;
// Names a shadow virtqueue inside its space. Starts at 1; 0 means none.
using SvqId = StrongNumber<struct SvqIdTag, uint64_t>;
// Names a registered piece of memory inside its space. Starts at 1; 0 means
// none.
using MemoryId = StrongNumber<struct MemoryIdTag, uint64_t>;

inline constexpr uint64_t kMaxAddress = std::numeric_limits<uint64_t>::max();

// An inclusive range [first, last] of addresses of one kind.
template <typename Address>
class Range {
 public:
  // Requires first <= last; use `FromBounds` for values not yet checked.
  constexpr Range(Address first, Address last) : first_(first), last_(last) {}

  // Nothing when first > last.
  static constexpr std::optional<Range> FromBounds(Address first, Address last) {
    if (first > last) return std::nullopt;
    return Range(first, last);
  }

  // The range of `size` bytes from `first`. Nothing when size is 0 or the range
  // would go beyond 2^64 - 1. A size of 2^64 cannot be expressed this way; use
  // `Whole`.
  static constexpr std::optional<Range> FromSize(Address first, uint64_t size) {
    if (size == 0 || size - 1 > kMaxAddress - first.value()) return std::nullopt;
    return Range(first, Address(first.value() + (size - 1)));
  }

  // All 2^64 addresses.
  static constexpr Range Whole() { return Range(Address(0), Address(kMaxAddress)); }

  constexpr Address first() const { return first_; }
  constexpr Address last() const { return last_; }

  // Size in bytes minus one: exact for every range, the whole space included.
  constexpr uint64_t last_offset() const { return last_.value() - first_.value(); }

  // Size in bytes. 0 stands for 2^64, which only `Whole()` has.
  constexpr uint64_t size() const { return last_offset() + 1; }

  constexpr bool Contains(Address a) const { return first_ <= a && a <= last_; }
  constexpr bool Contains(Range r) const { return first_ <= r.first_ && r.last_ <= last_; }
  constexpr bool Overlaps(Range r) const { return first_ <= r.last_ && r.first_ <= last_; }

  // The part both have, or nothing.
  constexpr std::optional<Range> Intersect(Range r) const {
    return FromBounds(first_ > r.first_ ? first_ : r.first_, last_ < r.last_ ? last_ : r.last_);
  }

  friend constexpr bool operator==(Range, Range) = default;

 private:
  Address first_;
  Address last_;
};

using IovaRange = Range<Iova>;
using GpaRange = Range<Gpa>;
using HvaRange = Range<Hva>;

// What the *device* may do with the memory. The values are those of vhost's
// IOTLB permissions (include/uapi/linux/vhost_types.h: VHOST_ACCESS_RO, _WO,
// _RW), so that they double as a bit mask: bit 0 reads, bit 1 writes.
enum class Access : uint8_t {
  kReadOnly = 1,
  kWriteOnly = 2,
  kReadWrite = 3,
};

// Whether a mapping with `granted` lets the device do all of `wanted`.
constexpr bool Permits(Access granted, Access wanted) {
  return (static_cast<unsigned>(granted) & static_cast<unsigned>(wanted)) ==
         static_cast<unsigned>(wanted);
}

}  // namespace iovad

#endif  // IOVAD_CORE_TYPES_H_
