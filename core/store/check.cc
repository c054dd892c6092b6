#include "core/store/check.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"

namespace iovad::store {
namespace {

absl::Status Corrupt(const std::string& path, const std::string& what) {
  return MakeError({.reason = Reason::kStoreCorrupt},
                   absl::StrCat("the store ", path, " is damaged: ", what,
                                "; start with --recover to keep what is intact"));
}

std::string DescribeKey(std::string_view bytes) {
  const std::optional<RecordKey> key = ParseKey(bytes);
  return key ? Describe(*key) : "an unknown key";
}

// Counts whole records, and stops at the first problem.
class Counter : public RecordSink {
 public:
  const RecordCounts& counts() const { return counts_; }
  std::optional<PageProblem> TakeProblem() {
    if (!problem_ && joiner_.unfinished()) {
      problem_ = PageProblem{.text = Describe(*joiner_.unfinished()) + ": a part is missing"};
    }
    return std::exchange(problem_, std::nullopt);
  }

  bool OnProblem(PageProblem problem) override {
    if (!problem_) problem_ = std::move(problem);
    return false;
  }

 protected:
  void OnGood(const RecordKey& key, std::string_view /*key_bytes*/, std::string_view /*value*/,
              std::string_view payload) override {
    if (joiner_.unfinished() || key.table != Table::kMapping) {
      const BlobJoiner::Result result = joiner_.Add(key, payload);
      if (result == BlobJoiner::Result::kPart) return;
      if (result == BlobJoiner::Result::kBroken) {
        (void)OnProblem({.text = Describe(key) + ": a part is missing or does not fit"});
        return;
      }
    }
    ++counts_[static_cast<size_t>(key.table)];
  }

 private:
  RecordCounts counts_ = {};
  BlobJoiner joiner_;
  std::optional<PageProblem> problem_;
};

// Finds the one record.
class IdentityFinder : public RecordSink {
 public:
  bool OnProblem(PageProblem problem) override {
    problem_ = Describe(problem);
    return true;
  }
  const std::optional<StoreIdentity>& found() const { return found_; }
  const std::string& problem() const { return problem_; }

 protected:
  void OnGood(const RecordKey& /*key*/, std::string_view /*key_bytes*/, std::string_view /*value*/,
              std::string_view payload) override {
    // The size of the blob, then the version, then the boot id.
    if (payload.size() < 8) return;
    StoreIdentity identity = {.version = 0};
    for (size_t i = 4; i > 0; --i) {
      identity.version = identity.version << 8 | static_cast<uint8_t>(payload[4 + i - 1]);
    }
    identity.boot_id = std::string(payload.substr(8));
    found_ = std::move(identity);
  }

 private:
  std::optional<StoreIdentity> found_;
  std::string problem_;
};

}  // namespace

std::string EncodeIdentity(const StoreIdentity& identity) {
  std::string bytes;
  for (size_t i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(identity.version >> (8 * i)));
  return bytes + identity.boot_id;
}

std::string Describe(const PageProblem& problem) {
  std::string text = problem.page == 0 && !problem.text.starts_with("meta")
                         ? problem.text
                         : absl::StrCat("page ", problem.page, ": ", problem.text);
  if (problem.first_key.empty() && problem.end_key.empty()) return text;
  absl::StrAppend(&text, " (",
                  problem.first_key.empty() ? "the first record" : DescribeKey(problem.first_key));
  if (problem.end_key.empty()) return text + " to the last record)";
  return absl::StrCat(text, " to before ", DescribeKey(problem.end_key), ")");
}

bool RecordSink::OnRecord(uint64_t page, std::string_view key_bytes, std::string_view value) {
  const std::optional<RecordKey> key = ParseKey(key_bytes);
  if (!key) {
    (void)OnProblem({.page = page, .text = "a record with an unknown key"});
    return false;
  }
  const std::optional<std::string_view> payload = CheckedPayload(key_bytes, value);
  if (!payload) {
    (void)OnProblem({.page = page, .text = Describe(*key) + ": its checksum is wrong"});
    return false;
  }
  if (key->table == Table::kMapping && !ParseMapping(MappingId(key->id), *payload, &note_)) {
    (void)OnProblem({.page = page, .text = Describe(*key) + ": not a mapping"});
    return false;
  }
  OnGood(*key, key_bytes, value, *payload);
  return true;
}

absl::StatusOr<StoreIdentity> ReadIdentity(PageFile& file, const std::string& path) {
  if (!file.meta()) {
    return Corrupt(path, file.meta_problems().empty() ? "no meta page"
                                                      : Describe(file.meta_problems().front()));
  }
  const EncodedKey first({.space = kServer, .table = Table::kMeta});
  const EncodedKey end({.space = kServer, .table = Table::kMeta, .part = 1});
  IdentityFinder finder;
  (void)file.WalkMain(first.bytes(), end.bytes(), finder);
  if (finder.found()) return *finder.found();
  return Corrupt(
      path, finder.problem().empty() ? "the record of its format is missing" : finder.problem());
}

absl::StatusOr<RecordCounts> CheckFile(PageFile& file, const std::string& path) {
  if (!file.meta_problems().empty()) return Corrupt(path, Describe(file.meta_problems().front()));
  Counter counter;
  if (file.WalkFree(counter)) (void)file.WalkMain("", "", counter);
  if (const std::optional<PageProblem> problem = counter.TakeProblem()) {
    return Corrupt(path, Describe(*problem));
  }
  return counter.counts();
}

}  // namespace iovad::store
