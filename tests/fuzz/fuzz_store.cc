// Whatever a store's file, or a record in it, holds: it is read or refused. The first
// byte chooses between a record and a file; a file is the seed's, damaged.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "core/store/check.h"
#include "core/store/page_file.h"
#include "core/store/record.h"

namespace {

using namespace iovad::store;  // NOLINT(google-build-using-namespace): the code under test

void Check(bool condition) {
  if (!condition) std::abort();
}

// A key, then a payload: what is taken has exactly this form.
void TryRecord(std::string_view bytes) {
  const size_t key_bytes = bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]) % 20;
  if (bytes.size() < key_bytes + 1) return;
  const std::string_view key = bytes.substr(1, key_bytes);
  const std::string_view payload = bytes.substr(1 + key_bytes);
  if (const auto parsed = ParseKey(key)) Check(EncodedKey(*parsed).bytes() == key);
  (void)CheckedPayload(key, payload);
  if (const auto mapping = ParseMapping(iovad::MappingId(1), payload)) {
    std::string again;
    AppendMappingValue(key, *mapping, &again);
    Check(std::string_view(again).substr(4) == payload);
    Check(CheckedPayload(key, again).has_value());
  }
  BlobJoiner joiner;
  const RecordKey first = {.space = SpaceNumber(1), .table = Table::kSvq};
  if (joiner.Add(first, payload) == BlobJoiner::Result::kWhole) {
    Check(joiner.bytes() == payload.substr(4));
  }
}

class Everything : public RecordSink {
 public:
  bool OnProblem(PageProblem problem) override {
    Check(!Describe(problem).empty());
    return true;
  }

 protected:
  void OnGood(const RecordKey& key, std::string_view key_bytes, std::string_view /*value*/,
              std::string_view /*payload*/) override {
    Check(EncodedKey(key).bytes() == key_bytes);
  }
};

void TryFile(std::string_view bytes) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("fuzz_store." + std::to_string(getpid())))
          .string();
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  if (const auto file = PageFile::Open(path); file.ok()) {
    (void)ReadIdentity(**file, path);
    Everything sink;
    (void)(*file)->WalkFree(sink);
    (void)(*file)->WalkMain("", "", sink);
    (void)(*file)->ReadLostLeaves(sink);
    (void)(*file)->LeakedPages();
  }
  std::filesystem::remove(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.empty()) return 0;
  if (bytes[0] == 'F') {
    TryFile(bytes.substr(1));
  } else {
    TryRecord(bytes.substr(1));
  }
  return 0;
}
