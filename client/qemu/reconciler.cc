#include "client/qemu/reconciler.h"

#include <algorithm>
#include <cstddef>
#include <set>

namespace iovad::qemu {
namespace {

bool Overlaps(absl::Span<const HvaRange> ranges, HvaRange range) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](HvaRange other) { return other.Overlaps(range); });
}

bool IsTheSame(const MemoryFile& a, const MemoryFile& b) {
  return a.hva == b.hva && a.offset == b.offset && a.device == b.device && a.inode == b.inode;
}

// Labels may differ: nobody maps memory anew for a name.
bool IsTheSame(const GuestMapping& a, const GuestMapping& b) {
  return a.gpa == b.gpa && a.hva == b.hva && a.size == b.size && a.access == b.access;
}

}  // namespace

Step NextStep(const GuestMemory& wanted, const SpaceContents& there) {
  Step step;

  // Memory that goes: it was registered here and is not the guest's any more, or stands
  // where the guest has another file now.
  std::vector<HvaRange> going;
  std::vector<bool> has_file(wanted.files.size(), false);
  for (const SpaceContents::Registered& memory : there.registered) {
    const auto same =
        std::find_if(wanted.files.begin(), wanted.files.end(),
                     [&](const MemoryFile& file) { return IsTheSame(file, memory.file); });
    if (same != wanted.files.end()) {
      has_file[static_cast<size_t>(same - wanted.files.begin())] = !memory.missing;
      continue;
    }
    const bool ours = memory.file.inode != 0;
    const bool in_the_way =
        std::any_of(wanted.files.begin(), wanted.files.end(),
                    [&](const MemoryFile& file) { return file.hva.Overlaps(memory.file.hva); });
    if (!ours && !in_the_way) continue;
    step.remove_memory.push_back(memory.id);
    going.push_back(memory.file.hva);
  }
  for (size_t i = 0; i < wanted.files.size(); ++i) {
    if (!has_file[i]) step.add_memory.push_back(wanted.files[i]);
  }

  // A mapping over memory that goes is made anew also where its numbers stay the same: it
  // means other bytes.
  std::vector<bool> is_mapped(wanted.mappings.size(), false);
  for (const SpaceContents::Mapped& mapped : there.mapped) {
    const auto same = std::find_if(
        wanted.mappings.begin(), wanted.mappings.end(),
        [&](const GuestMapping& mapping) { return IsTheSame(mapping, mapped.mapping); });
    if (same == wanted.mappings.end() || Overlaps(going, mapped.mapping.HvaOf())) {
      step.unmap.push_back(mapped.id);
    } else {
      is_mapped[static_cast<size_t>(same - wanted.mappings.begin())] = true;
    }
  }
  for (size_t i = 0; i < wanted.mappings.size(); ++i) {
    if (!is_mapped[i]) step.map.push_back(wanted.mappings[i]);
  }

  // Where new memory meets memory that goes, that has to be gone first.
  const bool blocked =
      std::any_of(step.add_memory.begin(), step.add_memory.end(),
                  [&](const MemoryFile& file) { return Overlaps(going, file.hva); }) ||
      std::any_of(step.map.begin(), step.map.end(),
                  [&](const GuestMapping& mapping) { return Overlaps(going, mapping.HvaOf()); });
  if (blocked) {
    step.add_memory.clear();
    step.map.clear();
  }
  return step;
}

}  // namespace iovad::qemu
