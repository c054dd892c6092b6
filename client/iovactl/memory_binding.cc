#include "client/iovactl/memory_binding.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"

namespace iovad::ctl {
namespace {

constexpr std::string_view kFd = "fd:";
constexpr std::string_view kServer = "server:";
// No canonical address of any paging mode of x86 or Arm begins there.
constexpr uint64_t kNobodys = uint64_t{1} << 63;
// Files begin at multiples of this, so that huge pages stay possible.
constexpr uint64_t kStride = uint64_t{1} << 30;

// "GPA-RANGE=REST".
absl::StatusOr<std::pair<text::Bounds, std::string_view>> SplitBinding(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals + 1 == text.size()) {
    return absl::InvalidArgumentError("write it as GPA-RANGE=WHERE: 0+2G=0x7f1000000000");
  }
  const absl::StatusOr<text::Bounds> gpa = text::ParseBounds(text.substr(0, equals));
  if (!gpa.ok()) return gpa.status();
  return std::pair(*gpa, text.substr(equals + 1));
}

struct File {
  std::string source;
  uint64_t hva = 0;
  uint64_t end = 0;
};

}  // namespace

absl::StatusOr<HvaBinding> ParseHvaBinding(std::string_view text) {
  const auto split = SplitBinding(text);
  if (!split.ok()) return split.status();
  const absl::StatusOr<uint64_t> hva = text::ParseNumber(split->second);
  if (!hva.ok()) return hva.status();
  return HvaBinding{.gpa = split->first, .hva = *hva};
}

absl::StatusOr<FileBinding> ParseFileBinding(std::string_view text) {
  const auto split = SplitBinding(text);
  if (!split.ok()) return split.status();
  FileBinding binding{.gpa = split->first};
  std::string_view source = split->second;
  const size_t at = source.rfind('@');
  if (at != std::string_view::npos) {
    // A size may be written as people do, but 0 is one here.
    const std::string_view offset = source.substr(at + 1);
    if (offset != "0") {
      const absl::StatusOr<uint64_t> bytes = text::ParseSize(offset);
      if (!bytes.ok()) return bytes.status();
      binding.offset = *bytes;
    }
    source = source.substr(0, at);
  }
  if (source.substr(0, kFd.size()) == kFd) {
    const absl::StatusOr<int> fd = ParseFdNumber(source.substr(kFd.size()));
    if (!fd.ok()) return fd.status();
  }
  if (source.empty() || source == kServer) {
    return absl::InvalidArgumentError("a file's path is needed");
  }
  binding.source = std::string(source);
  return binding;
}

absl::StatusOr<std::vector<FdSource>> AddBindings(const std::vector<HvaBinding>& hvas,
                                                  const std::vector<FileBinding>& files,
                                                  v1::ImportHeader* header) {
  for (const HvaBinding& given : hvas) {
    v1::MemoryBinding* binding = header->add_bindings();
    *binding->mutable_gpa() = ToProto(given.gpa.first, given.gpa.last);
    binding->set_hva(given.hva);
  }
  // How far each file reaches, then where it is.
  std::vector<File> all;
  const auto file_of = [&all](const FileBinding& given) {
    return std::find_if(all.begin(), all.end(),
                        [&](const File& file) { return file.source == given.source; });
  };
  for (const FileBinding& given : files) {
    const uint64_t last = given.gpa.last - given.gpa.first;
    if (given.offset >= kNobodys || last >= kNobodys - given.offset) {
      return UsageError(absl::StrCat("--bind-memory: ", given.source, " cannot be that large"));
    }
    auto file = file_of(given);
    if (file == all.end()) file = all.insert(all.end(), {.source = given.source});
    file->end = std::max(file->end, given.offset + last + 1);
  }
  std::vector<FdSource> sources;
  uint64_t next = kNobodys;
  for (File& file : all) {
    file.hva = next;
    const uint64_t strides = (file.end - 1) / kStride + 1;
    if (strides > (~uint64_t{0} - next) / kStride) {
      return UsageError("--bind-memory: all files together cannot be that large");
    }
    next += strides * kStride;
    v1::MemorySource* memory = header->add_memories();
    memory->set_hva(file.hva);
    memory->set_size(file.end);
    FdSource& source = sources.emplace_back();
    if (file.source.rfind(kServer, 0) == 0) {
      memory->set_path(file.source.substr(kServer.size()));
    } else if (file.source.rfind(kFd, 0) == 0) {
      source.fd = *ParseFdNumber(std::string_view(file.source).substr(kFd.size()));
    } else {
      source.path = file.source;
    }
  }
  for (const FileBinding& given : files) {
    const auto file = file_of(given);
    v1::MemoryBinding* binding = header->add_bindings();
    *binding->mutable_gpa() = ToProto(given.gpa.first, given.gpa.last);
    binding->set_hva(file->hva + given.offset);
    binding->set_memory_id(static_cast<uint64_t>(file - all.begin()) + 1);
  }
  return sources;
}

}  // namespace iovad::ctl
