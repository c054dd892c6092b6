// Whatever /proc/self/maps holds, it is read or refused; what was read rises, and
// a look at any part of it ends with an answer that fits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/memlock.h"
#include "core/memory_area.h"

namespace {

using iovad::Hva;
using iovad::HvaRange;
using iovad::MemoryAreas;
using iovad::MemoryFault;

void Check(bool condition) {
  if (!condition) std::abort();
}

void CheckFinding(const MemoryAreas::Finding& found, HvaRange range) {
  Check(found.fault == MemoryFault::kNone || range.Contains(found.where));
  Check(found.fault != MemoryFault::kNone || found.areas > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)iovad::StatusBytes(text, "VmPin");
  const auto areas = MemoryAreas::Parse(text);
  if (!areas.ok()) return 0;
  std::optional<Hva> last;
  for (const iovad::MemoryArea& area : areas->areas()) {
    Check(!last || *last < area.range.first());
    // The area, and what begins in it and ends where all addresses do.
    const HvaRange rest(area.range.first(), Hva(iovad::kMaxAddress));
    for (const HvaRange range : {area.range, rest}) {
      CheckFinding(areas->Look(range), range);
      CheckFinding(areas->LookMapped(range), range);
    }
    Check(areas->LookMapped(area.range).fault == MemoryFault::kNone);
    // From the end of the one before, hole or not.
    if (last)
      CheckFinding(areas->Look(HvaRange(*last, area.range.last())),
                   HvaRange(*last, area.range.last()));
    last = area.range.last();
  }
  return 0;
}
