#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/c/abi.h"
#include "client/c/handles.h"
#include "client/c/iovad.h"
#include "core/operations.h"
#include "core/translate.h"

namespace iovad::c {
namespace {

static_assert(IOVAD_MIRROR_STARTING == static_cast<int>(MirrorState::kStarting));
static_assert(IOVAD_MIRROR_LIVE == static_cast<int>(MirrorState::kLive));
static_assert(IOVAD_MIRROR_DISCONNECTED == static_cast<int>(MirrorState::kDisconnected));
static_assert(IOVAD_MIRROR_GONE == static_cast<int>(MirrorState::kGone));
static_assert(IOVAD_MISS == static_cast<int>(FaultKind::kMiss));
static_assert(IOVAD_DENIED == static_cast<int>(FaultKind::kAccess));
static_assert(sizeof(iovad_segment) == 56 && sizeof(iovad_range) == 16, "these never change");

// A translation in the making, of version 1.0: nothing has been added since. All of it in
// signal handlers too.
class Translating {
 public:
  Translating(const iovad_mirror* mirror, uint32_t access, iovad_translation* result)
      : good_(mirror != nullptr && access <= IOVAD_READ_WRITE && result != nullptr &&
              result->struct_size >= sizeof(iovad_translation) &&
              (result->capacity == 0 || result->segments != nullptr)),
        access_(static_cast<Access>(access)),
        result_(result) {
    if (!good_) return;
    result_->count = 0;
    result_->done = 0;
    result_->revision = 0;
    result_->fault_address = 0;
    result_->fault_piece = 0;
  }

  bool good() const { return good_; }

  // Translates one piece; what came out.
  template <typename Address>
  int Add(const MirrorView& view, Address address, uint64_t size, uint64_t piece) {
    const QueryOutcome outcome = view.TranslateEach(
        {.address = address, .size = size, .access = access_}, [&](const Segment& segment) {
          if (result_->count == result_->capacity) return false;
          result_->segments[result_->count++] = {
              .iova = segment.iova.value(),
              .size = segment.size,
              .hva = segment.hva.value(),
              .gpa = segment.gpa.has_value() ? segment.gpa->value() : 0,
              .mapping_id = segment.mapping_id.value(),
              .access = static_cast<uint32_t>(segment.access),
              .is_guest = segment.gpa.has_value() ? 1u : 0u,
              .piece = piece,
          };
          return true;
        });
    result_->done += outcome.done;
    if (outcome.done == size && !outcome.fault.has_value()) return IOVAD_WHOLE;
    result_->fault_piece = piece;
    result_->fault_address =
        outcome.fault.has_value() ? outcome.fault->address : address.value() + outcome.done;
    return outcome.fault.has_value() ? static_cast<int>(outcome.fault->kind) : IOVAD_NO_ROOM;
  }
  void set_revision(Revision revision) { result_->revision = revision.value(); }

 private:
  const bool good_;
  const Access access_;  // 0 asks for nothing, which every mapping grants
  iovad_translation* const result_;
};

template <typename Address>
int TranslateOne(const iovad_mirror* mirror, Address address, uint64_t size, uint32_t access,
                 iovad_translation* result) {
  Translating translating(mirror, access, result);
  if (!translating.good() || size == 0) return -1;
  return mirror->mirror->Read([&](const MirrorView& view) {
    translating.set_revision(view.revision());
    return translating.Add(view, address, size, 0);
  });
}

}  // namespace

extern "C" {

int iovad_mirror_open(struct iovad_space* space, const struct iovad_mirror_options* options,
                      struct iovad_mirror** mirror, struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(space, "space"); !s.ok()) return s;
    if (absl::Status s = Need(mirror, "mirror"); !s.ok()) return s;
    MirrorOptions how;
    if (options != nullptr) {
      iovad_mirror_options known;
      if (absl::Status s = CopyIn(options, "options", known); !s.ok()) return s;
      if (known.silence_ms < 0) {
        return BadValue("options: silence_ms must have an end");
      }
      if (known.silence_ms > 0) how.silence_timeout = Milliseconds(known.silence_ms);
    }
    absl::StatusOr<std::unique_ptr<Mirror>> opened = space->space.OpenMirror(how);
    if (!opened.ok()) return opened.status();
    *mirror = new iovad_mirror{*std::move(opened)};
    return absl::OkStatus();
  });
}

void iovad_mirror_close(struct iovad_mirror* mirror) { delete mirror; }

int iovad_mirror_get_status(const struct iovad_mirror* mirror, struct iovad_mirror_status* status,
                            struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(mirror, "mirror"); !s.ok()) return s;
    if (absl::Status s = CheckOut(status, "status"); !s.ok()) return s;
    const MirrorStatus now = mirror->mirror->status();
    iovad_mirror_status filled = {};
    filled.state = static_cast<uint32_t>(now.state);
    filled.revision = now.revision.value();
    filled.since_ms = now.since == absl::InfinitePast() ? 0 : absl::ToUnixMillis(now.since);
    filled.snapshots = now.snapshots;
    filled.resumptions = now.resumptions;
    CopyText(now.space_uid, filled.space_uid);
    CopyText(std::string(now.why.message()), filled.why);
    CopyOut(filled, *status);
    return absl::OkStatus();
  });
}

int iovad_mirror_wait_live(const struct iovad_mirror* mirror, int64_t timeout_ms,
                           struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(mirror, "mirror"); !s.ok()) return s;
    return mirror->mirror->WaitUntilLive(Milliseconds(timeout_ms));
  });
}

int iovad_mirror_wait_for(const struct iovad_mirror* mirror, uint64_t revision, int64_t timeout_ms,
                          struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(mirror, "mirror"); !s.ok()) return s;
    return mirror->mirror->WaitFor(Revision(revision), Milliseconds(timeout_ms));
  });
}

int iovad_translate_gpa(const struct iovad_mirror* mirror, uint64_t gpa, uint64_t size,
                        uint32_t access, struct iovad_translation* result) {
  return TranslateOne(mirror, Gpa(gpa), size, access, result);
}

int iovad_translate_hva(const struct iovad_mirror* mirror, uint64_t hva, uint64_t size,
                        uint32_t access, struct iovad_translation* result) {
  return TranslateOne(mirror, Hva(hva), size, access, result);
}

int iovad_translate_iova(const struct iovad_mirror* mirror, uint64_t iova, uint64_t size,
                         uint32_t access, struct iovad_translation* result) {
  return TranslateOne(mirror, Iova(iova), size, access, result);
}

int iovad_translate_iovec(const struct iovad_mirror* mirror, const struct iovec* iov,
                          const uint64_t* gpas, size_t count, uint32_t access,
                          struct iovad_translation* result) {
  Translating translating(mirror, access, result);
  if (!translating.good() || (count > 0 && iov == nullptr)) return -1;
  return mirror->mirror->Read([&](const MirrorView& view) {
    translating.set_revision(view.revision());
    int outcome = IOVAD_WHOLE;
    for (size_t i = 0; i < count && outcome == IOVAD_WHOLE; ++i) {
      const size_t size = iov[i].iov_len;
      if (size == 0) continue;
      outcome =
          gpas != nullptr
              ? translating.Add(view, Gpa(gpas[i]), size, i)
              : translating.Add(view, Hva(reinterpret_cast<uintptr_t>(iov[i].iov_base)), size, i);
    }
    return outcome;
  });
}

}  // extern "C"
}  // namespace iovad::c
