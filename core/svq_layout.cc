#include "core/svq_layout.h"

#include <bit>

namespace iovad {
namespace {

constexpr uint64_t kDescriptorSize = 16;
constexpr uint64_t kPackedEventSize = 4;

uint64_t RoundUp(uint64_t n, uint64_t page_size) { return (n + page_size - 1) & ~(page_size - 1); }

// flags, idx, ring[n], used_event (section 2.7.6).
uint64_t AvailSize(uint64_t n) { return 6 + 2 * n; }
// flags, idx, ring[n] of {id, len}, avail_event (section 2.7.8).
uint64_t UsedSize(uint64_t n) { return 6 + 8 * n; }

}  // namespace

bool IsValidQueueSize(RingFormat format, uint32_t queue_size) {
  if (queue_size == 0 || queue_size > kMaxQueueSize) return false;
  return format == RingFormat::kPacked || std::has_single_bit(queue_size);
}

const char* SvqAreaName(SvqAreaKind kind) {
  switch (kind) {
    case SvqAreaKind::kDescriptors:
      return "descriptors";
    case SvqAreaKind::kDriver:
      return "driver area";
    case SvqAreaKind::kDevice:
      return "device area";
    case SvqAreaKind::kControlOut:
      return "control out";
    case SvqAreaKind::kControlIn:
      return "control in";
  }
  return "";
}

std::vector<SvqArea> SvqAreas(RingFormat format, uint32_t queue_size, bool control,
                              uint64_t page_size) {
  const uint64_t n = queue_size;
  std::vector<SvqArea> areas;
  const auto add = [&](SvqAreaKind kind, uint64_t size, Access access) {
    areas.push_back({kind, RoundUp(size, page_size), access});
  };
  if (control) {
    add(SvqAreaKind::kControlOut, page_size, Access::kReadOnly);
    add(SvqAreaKind::kControlIn, page_size, Access::kReadWrite);
  }
  if (format == RingFormat::kPacked) {
    add(SvqAreaKind::kDescriptors, kDescriptorSize * n, Access::kReadWrite);
    add(SvqAreaKind::kDriver, kPackedEventSize, Access::kReadOnly);
    add(SvqAreaKind::kDevice, kPackedEventSize, Access::kWriteOnly);
  } else {
    add(SvqAreaKind::kDriver, SplitAvailOffset(queue_size) + AvailSize(n), Access::kReadOnly);
    add(SvqAreaKind::kDevice, UsedSize(n), Access::kReadWrite);
  }
  return areas;
}

uint64_t LayOutSvqs(absl::Span<SvqSpec> specs, Hva base, uint64_t page_size) {
  uint64_t at = 0;
  for (SvqSpec& spec : specs) {
    if (!IsValidQueueSize(spec.format, spec.queue_size)) continue;
    for (const SvqArea& area : SvqAreas(spec.format, spec.queue_size, spec.control, page_size)) {
      const Hva hva(base.value() + at);
      at += area.size;
      switch (area.kind) {
        case SvqAreaKind::kDescriptors:
          spec.desc_hva = hva;
          break;
        case SvqAreaKind::kDriver:
          spec.driver_hva = hva;
          break;
        case SvqAreaKind::kDevice:
          spec.device_hva = hva;
          break;
        case SvqAreaKind::kControlOut:
          spec.control_out_hva = hva;
          break;
        case SvqAreaKind::kControlIn:
          spec.control_in_hva = hva;
          break;
      }
    }
  }
  return at;
}

uint64_t SplitAvailOffset(uint32_t queue_size) { return kDescriptorSize * queue_size; }

}  // namespace iovad
