// One mapping of a space: a stretch of memory and the IOVA at which devices
// reach it.
//
// Purpose. The record that every index of a space points at. It is immutable
// once it is in a space, but for `may_share_hva`: a change is a removal and a new
// mapping with a new id.
// It fills one cache line, so that a look-up pays for it once; what few mappings
// have (a label, a shadow virtqueue, registered memory) lives in a shared note.
//
// Thread safety. A value. Copies share the note, which is immutable and counted
// atomically.
//
// Invariants.
//  1. `iova()`, `hva()` and, for guest memory, `gpa()` have the same size and do
//     not wrap.
//  2. A mapping has a GPA exactly when its kind is `MappingKind::kGuest`.
//
// Example:
//   Mapping m(MappingId(7), IovaRange(Iova(0x1000), Iova(0x1fff)), Gpa(0),
//             Hva(0x7f0000000000), Access::kReadWrite, Revision(3));
//   m.hva().last();   // Hva(0x7f0000000fff)
#ifndef IOVAD_CORE_MAPPING_H_
#define IOVAD_CORE_MAPPING_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "core/types.h"

namespace iovad {

enum class MappingKind : uint8_t {
  kGuest = 1,  // guest memory: has a GPA; its HVA may be shared with others
  kHost = 2,   // the host's own (SVQ rings, CVQ buffers): no GPA
};

// What only some mappings carry. Shared by copies of a mapping and by the
// remainders of a split.
struct MappingNote {
  std::string label = {};
  SvqId svq = {};
  MemoryId memory = {};

  friend bool operator==(const MappingNote&, const MappingNote&) = default;
};

// Counted pointer to an immutable note; null when there is nothing to note.
class NotePtr {
 public:
  NotePtr() = default;
  explicit NotePtr(MappingNote note) : counted_(new Counted{std::move(note), {1}}) {}
  NotePtr(const NotePtr& other) : counted_(other.counted_) {
    if (counted_ != nullptr) counted_->count.fetch_add(1, std::memory_order_relaxed);
  }
  NotePtr(NotePtr&& other) noexcept : counted_(std::exchange(other.counted_, nullptr)) {}
  NotePtr& operator=(NotePtr other) noexcept {
    std::swap(counted_, other.counted_);
    return *this;
  }
  ~NotePtr() {
    if (counted_ != nullptr && counted_->count.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      delete counted_;
    }
  }

  explicit operator bool() const { return counted_ != nullptr; }
  const MappingNote& operator*() const { return counted_->note; }
  const MappingNote* operator->() const { return &counted_->note; }

 private:
  struct Counted {
    MappingNote note;
    std::atomic<uint32_t> count;
  };
  Counted* counted_ = nullptr;
};

class Mapping {
 public:
  // An empty record, to be assigned to.
  Mapping() = default;

  // `gpa` decides the kind. Requires that neither `gpa` nor `hva` plus the size
  // of `iova` wraps.
  Mapping(MappingId id, IovaRange iova, std::optional<Gpa> gpa, Hva hva, Access access,
          Revision revision, NotePtr note = NotePtr())
      : id_(id),
        iova_(iova.first()),
        last_offset_(iova.last_offset()),
        gpa_(gpa.value_or(Gpa(0))),
        hva_(hva),
        revision_(revision),
        note_(std::move(note)),
        access_(access),
        kind_(gpa.has_value() ? MappingKind::kGuest : MappingKind::kHost) {}

  MappingId id() const { return id_; }
  Revision revision() const { return revision_; }
  Access access() const { return access_; }
  MappingKind kind() const { return kind_; }
  const NotePtr& note() const { return note_; }

  IovaRange iova() const { return Stretch(iova_); }
  HvaRange hva() const { return Stretch(hva_); }
  // Guest memory only.
  GpaRange gpa() const { return Stretch(gpa_); }
  bool is_guest() const { return kind_ == MappingKind::kGuest; }

  // Size in bytes (0 stands for 2^64, see Range::size) and size minus one.
  uint64_t size() const { return last_offset_ + 1; }
  uint64_t last_offset() const { return last_offset_; }

  // Whether other guest memory may be mapped over its HVAs. Only of what is in a
  // table, which keeps it.
  bool may_share_hva() const { return may_share_hva_; }

  SvqId svq() const { return note_ ? note_->svq : SvqId(0); }
  MemoryId memory() const { return note_ ? note_->memory : MemoryId(0); }

 private:
  friend class MappingSlab;

  template <typename Address>
  Range<Address> Stretch(Address first) const {
    return Range<Address>(first, Address(first.value() + last_offset_));
  }

  MappingId id_;
  Iova iova_;
  uint64_t last_offset_ = 0;
  Gpa gpa_;
  Hva hva_;
  Revision revision_;
  NotePtr note_;
  Access access_ = Access::kReadWrite;
  MappingKind kind_ = MappingKind::kHost;
  bool may_share_hva_ = false;
};

static_assert(sizeof(Mapping) == 64);

// Orders mappings by where they start.
struct LowerIova {
  bool operator()(const Mapping& a, const Mapping& b) const {
    return a.iova().first() < b.iova().first();
  }
};

}  // namespace iovad

#endif  // IOVAD_CORE_MAPPING_H_
