#include "tests/kernel/api/traced_guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

using replay::Event;

// Where memory is in its file: huge pages are whole there.
constexpr uint64_t kOffset = 0x200000;

std::string Folder() {
  const char* const folder = std::getenv("IOVAD_TEST_TRACES");
  return folder == nullptr ? "" : folder;
}

}  // namespace

std::vector<std::string> TraceNames() {
  std::vector<std::string> names;
  DIR* const open = opendir(Folder().c_str());
  if (open == nullptr) return {};
  while (const dirent* entry = readdir(open)) {
    if (absl::EndsWith(entry->d_name, ".jsonl")) names.emplace_back(entry->d_name);
  }
  closedir(open);
  std::sort(names.begin(), names.end());
  return names;
}

TracedGuest::TracedGuest(const std::string& name, size_t most_events) {
  std::ifstream file(absl::StrCat(Folder(), "/", name));
  absl::StatusOr<replay::Trace> trace = replay::ReadTrace(file);
  EXPECT_TRUE(trace.ok()) << trace.status();
  if (!trace.ok()) return;
  trace_ = *std::move(trace);
  trace_.events.insert(trace_.events.begin(), Event{});
  if (trace_.events.size() > most_events) trace_.events.resize(most_events);
  FindBlocks();
}

void TracedGuest::FindBlocks() {
  std::vector<HvaRange> ranges;
  for (const Event& event : trace_.events) {
    if (event.kind != Event::Kind::kMap) continue;
    ranges.emplace_back(event.hva, Hva(event.hva.value() + (event.last - event.first)));
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const HvaRange& a, const HvaRange& b) { return a.first() < b.first(); });
  for (const HvaRange& range : ranges) {
    const uint64_t first = range.first().value();
    const uint64_t end = range.last().value() + 1;
    if (!blocks_.empty() && first <= blocks_.back().hva + blocks_.back().size) {
      blocks_.back().size = std::max(blocks_.back().size, end - blocks_.back().hva);
    } else {
      blocks_.push_back({.hva = first, .size = end - first});
    }
  }
}

void TracedGuest::CutAtPeak() {
  size_t live = 0;
  size_t most = 0;
  size_t end = 0;
  for (size_t i = 0; i < trace_.events.size(); ++i) {
    const Event::Kind kind = trace_.events[i].kind;
    if (kind == Event::Kind::kMap) ++live;
    if (kind == Event::Kind::kUnmap) --live;
    if (kind == Event::Kind::kBatchCommit && live > most) {
      most = live;
      end = i + 1;
    }
  }
  trace_.events.resize(end);
}

uint64_t TracedGuest::memory_size() const {
  uint64_t size = 0;
  for (const Block& block : blocks_) size += block.size;
  return size;
}

void TracedGuest::Register(client::Connection& iovad, client::FdSocket& fds,
                           const std::string& space) {
  for (Block& block : blocks_) {
    block.file = UniqueFd(memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(ftruncate(block.file.get(), static_cast<off_t>(kOffset + block.size)), 0);
    ASSERT_EQ(fcntl(block.file.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
    ASSERT_EQ(fstat(block.file.get(), &block.info), 0);
    const auto handle = fds.Deposit(FdKind::kMemory, "guest", block.file.get());
    ASSERT_TRUE(handle.ok()) << handle.status();
    v1::RegisterMemoryRequest request;
    request.set_space(space);
    request.set_hva(block.hva);
    request.set_size(block.size);
    request.set_offset(kOffset);
    request.set_fd_handle(*handle);
    const auto registered = iovad.RegisterMemory(request);
    ASSERT_TRUE(registered.ok()) << registered.status();
  }
}

VduseEntry TracedGuest::Expected(const v1::Mapping& mapping) const {
  const auto above =
      std::upper_bound(blocks_.begin(), blocks_.end(), mapping.hva(),
                       [](uint64_t hva, const Block& block) { return hva < block.hva; });
  if (above == blocks_.begin()) {
    ADD_FAILURE() << "no memory at HVA " << mapping.hva();
    return {};
  }
  const Block& block = *std::prev(above);
  const char* const access = mapping.access() == v1::ACCESS_READ_ONLY    ? "r"
                             : mapping.access() == v1::ACCESS_WRITE_ONLY ? "w"
                                                                         : "rw";
  return {.start = mapping.iova(),
          .last = mapping.iova() + mapping.size() - 1,
          .perm = access,
          .offset = mapping.hva() - block.hva + kOffset,
          .dev = block.info.st_dev,
          .ino = block.info.st_ino};
}

std::vector<VduseEntry> TracedGuest::Expected(const std::vector<v1::Mapping>& mappings) const {
  std::vector<VduseEntry> expected;
  expected.reserve(mappings.size());
  for (const v1::Mapping& mapping : mappings) expected.push_back(Expected(mapping));
  return expected;
}

}  // namespace iovad
