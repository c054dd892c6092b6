// Whatever QEMU's monitor says, it is read or refused; what was read of the guest's memory
// rises, and makes mappings of whole pages.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <vector>

#include "client/qemu/flat_view.h"
#include "client/qemu/guest_memory.h"
#include "client/qemu/qmp_message.h"
#include "core/memory_area.h"

namespace {

using iovad::Gpa;
using iovad::Hva;
using iovad::MemoryAreas;
using iovad::qemu::FlatSection;
using iovad::qemu::GuestMapping;
using iovad::qemu::kPage;
using iovad::qemu::LocatedSection;

void Check(bool condition) {
  if (!condition) std::abort();
}

void CheckMemory(const std::vector<FlatSection>& sections, const MemoryAreas& areas) {
  std::vector<LocatedSection> located;
  std::optional<Gpa> last;
  for (const FlatSection& section : sections) {
    Check(!last || *last < section.range.first());
    last = section.range.last();
    // In the areas as often as not, and not always at a page.
    located.push_back({.section = section, .hva = Hva(0x7f0000000000 + section.range.size() % 7)});
  }
  const auto memory =
      iovad::qemu::MakeGuestMemory(located, areas, iovad::qemu::PrivateMemory::kMap);
  if (!memory.ok()) return;
  std::optional<Gpa> end;
  for (const GuestMapping& mapping : memory->mappings) {
    Check(mapping.size > 0 && mapping.size % kPage == 0);
    Check(mapping.gpa.value() % kPage == 0 && mapping.hva.value() % kPage == 0);
    Check(!end || *end < mapping.gpa);
    end = Gpa(mapping.gpa.value() + (mapping.size - 1));
    Check(*end >= mapping.gpa);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const MemoryAreas& areas = *new MemoryAreas(
      *MemoryAreas::Parse("7f0000000000-7f0000100000 rw-s 00000000 00:01 17 /memfd:a\n"
                          "7f0000100000-7fffffffe000 rw-p 00000000 00:00 0\n"));
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)iovad::qemu::ParseQmpMessage(text);
  (void)iovad::qemu::ParseHostAddress(text);
  (void)iovad::qemu::ParsePrivateBackends(text);
  if (const auto sections = iovad::qemu::ParseFlatView(text); sections.ok()) {
    CheckMemory(*sections, areas);
  }
  return 0;
}
