// Whatever a journal holds, and whatever a record that its checksum calls whole: it is
// read or refused, and what is taken is taken byte for byte. The first byte chooses
// between a file and a record.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "core/store/journal.h"

namespace {

using namespace iovad::store;  // NOLINT(google-build-using-namespace): the code under test

void Check(bool condition) {
  if (!condition) std::abort();
}

std::string Path() {
  return (std::filesystem::temp_directory_path() / ("fuzz_journal." + std::to_string(getpid())))
      .string();
}

void TryFile(std::string_view bytes) {
  const std::string path = Path();
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  const auto contents = Journal::Read(path);
  Check(contents.ok());
  uint64_t before = 0;
  for (const JournalContents::Record& record : contents->records) {
    Check(before == 0 || record.sequence == before + 1);
    before = record.sequence;
  }
  std::filesystem::remove(path);
}

void TryRecord(std::string_view bytes) {
  const std::string path = Path();
  const auto journal = Journal::Make(path, 7);
  Check(journal.ok() && (*journal)->Append({bytes}).ok());
  const auto contents = Journal::Read(path);
  Check(contents.ok() && contents->next == 8);
  Check(contents->records.size() + contents->problems.size() == 1);
  if (!contents->records.empty()) Check(contents->records[0].batch.buffer() == bytes);
  std::filesystem::remove(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.empty()) return 0;
  (bytes[0] == 'f' ? TryFile : TryRecord)(bytes.substr(1));
  return 0;
}
