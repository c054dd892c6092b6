#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/c/abi.h"
#include "client/c/handles.h"
#include "client/c/iovad.h"
#include "core/error.h"
#include "core/operations.h"

namespace iovad::c {
namespace {

static_assert(IOVAD_RING_SPLIT == static_cast<int>(RingFormat::kSplit));
static_assert(IOVAD_RING_PACKED == static_cast<int>(RingFormat::kPacked));

absl::StatusOr<SvqSpec> SpecOf(const iovad_svq_spec& known) {
  if ((known.flags & ~(IOVAD_SVQ_CONTROL | IOVAD_SVQ_OWN_MEMORY)) != 0) {
    return BadValue("specs: unknown flags");
  }
  if (known.format > IOVAD_RING_PACKED) return BadValue("specs: unknown format");
  SvqSpec spec = {.queue_index = known.queue_index,
                  .queue_size = known.queue_size,
                  .control = (known.flags & IOVAD_SVQ_CONTROL) != 0};
  if (known.format != 0) spec.format = static_cast<RingFormat>(known.format);
  if ((known.flags & IOVAD_SVQ_OWN_MEMORY) == 0) return spec;
  if (spec.format == RingFormat::kPacked) spec.desc_hva = Hva(known.desc_hva);
  spec.driver_hva = Hva(known.driver_hva);
  spec.device_hva = Hva(known.device_hva);
  if (spec.control) {
    spec.control_out_hva = Hva(known.control_out_hva);
    spec.control_in_hva = Hva(known.control_in_hva);
  }
  return spec;
}

iovad_svq QueueOf(const Svq& svq) {
  iovad_svq queue = {};
  queue.flags = svq.control ? IOVAD_SVQ_CONTROL : 0;
  queue.queue_index = svq.queue_index;
  queue.queue_size = svq.queue_size;
  queue.format = static_cast<uint32_t>(svq.format);
  queue.id = svq.id.value();
  queue.desc = svq.desc.value();
  queue.driver = svq.driver.value();
  queue.device = svq.device.value();
  queue.control_out = svq.control_out.value_or(Iova(0)).value();
  queue.control_in = svq.control_in.value_or(Iova(0)).value();
  queue.memory_id = svq.memory.value();
  queue.desc_offset = svq.desc_offset;
  queue.driver_offset = svq.driver_offset;
  queue.device_offset = svq.device_offset;
  queue.control_out_offset = svq.control_out_offset;
  queue.control_in_offset = svq.control_in_offset;
  return queue;
}

}  // namespace

extern "C" {

int iovad_alloc_svqs(struct iovad_space* space, const struct iovad_svq_spec* specs,
                     struct iovad_svq* svqs, size_t count, const struct iovad_options* options,
                     struct iovad_error* error) {
  return CallOf<PlanOptions>(space, options, error, [&](const PlanOptions& how) -> absl::Status {
    if (absl::Status s = CheckArray(specs, count, "specs"); !s.ok()) return s;
    if (absl::Status s = CheckArray(svqs, count, "svqs"); !s.ok()) return s;
    std::vector<SvqSpec> wanted;
    for (size_t i = 0; i < count; ++i) {
      iovad_svq_spec known;
      if (absl::Status s = CopyIn(At(specs, i), "specs", known); !s.ok()) return s;
      const absl::StatusOr<SvqSpec> spec = SpecOf(known);
      if (!spec.ok()) return WithOpIndex(spec.status(), static_cast<uint32_t>(i));
      wanted.push_back(*spec);
    }
    const absl::StatusOr<Revised<std::vector<Svq>>> made = space->space.AllocSvqs(wanted, how);
    if (!made.ok()) return made.status();
    if (made->value.size() != count) return absl::InternalError("AllocSVQ: too few answers");
    for (size_t i = 0; i < count; ++i) CopyOut(QueueOf(made->value[i]), *At(svqs, i));
    return absl::OkStatus();
  });
}

int iovad_free_svqs(struct iovad_space* space, const uint64_t* ids, size_t count,
                    const struct iovad_options* options, struct iovad_error* error) {
  return CallOf<PlanOptions>(space, options, error, [&](const PlanOptions& how) -> absl::Status {
    if (count > 0) {
      if (absl::Status s = Need(ids, "ids"); !s.ok()) return s;
    }
    std::vector<SvqId> named;
    for (size_t i = 0; i < count; ++i) named.emplace_back(ids[i]);
    return space->space.FreeSvqs(named, how).status();
  });
}

}  // extern "C"
}  // namespace iovad::c
