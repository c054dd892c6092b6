#include "core/store/check.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"

namespace iovad::store {
namespace {

absl::Status Corrupt(const std::string& path, const std::string& what) {
  return Damaged(absl::StrCat("the store ", path, " is damaged: ", what));
}

std::string DescribeKey(std::string_view bytes) {
  const std::optional<RecordKey> key = ParseKey(bytes);
  return key ? Describe(*key) : "an unknown key";
}

// Leaves from which on a second thread is worth its while.
constexpr uint64_t kManyLeaves = 100;

// Whether no blob has a part before this key and one from it on: mappings have none.
bool BeginsRecord(std::string_view bytes) {
  const std::optional<RecordKey> key = ParseKey(bytes);
  return key && key->table == Table::kMapping;
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

// Finds a blob of one part.
class Finder : public RecordSink {
 public:
  bool OnProblem(PageProblem problem) override {
    problem_ = Describe(problem);
    return true;
  }
  void Find(PageFile& file, uint64_t id) {
    const EncodedKey first({.space = kServer, .table = Table::kMeta, .id = id});
    const EncodedKey end({.space = kServer, .table = Table::kMeta, .id = id, .part = 1});
    (void)file.WalkMain(first.bytes(), end.bytes(), *this);
  }
  const std::optional<std::string>& found() const { return found_; }
  const std::string& problem() const { return problem_; }

 protected:
  void OnGood(const RecordKey& /*key*/, std::string_view /*key_bytes*/, std::string_view /*value*/,
              std::string_view payload) override {
    // After the size of the whole.
    if (payload.size() >= sizeof(uint32_t)) found_ = payload.substr(sizeof(uint32_t));
  }

 private:
  std::optional<std::string> found_;
  std::string problem_;
};

template <typename Number>
std::string Little(Number number) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(number); ++i) bytes.push_back(static_cast<char>(number >> (8 * i)));
  return bytes;
}

template <typename Number>
Number FromLittle(std::string_view bytes) {
  Number number = 0;
  for (size_t i = sizeof(number); i > 0; --i) {
    number = number << 8 | static_cast<uint8_t>(bytes[i - 1]);
  }
  return number;
}

}  // namespace

std::string EncodeIdentity(const StoreIdentity& identity) {
  return Little(identity.version) + identity.boot_id;
}

std::string EncodePosition(uint64_t next) { return Little(next); }

uint64_t DecodePosition(std::string_view bytes) {
  return bytes.size() == sizeof(uint64_t) ? FromLittle<uint64_t>(bytes) : 0;
}

absl::Status Damaged(const std::string& what) {
  return MakeError({.reason = Reason::kStoreCorrupt},
                   absl::StrCat(what, "; start with --recover to keep what is intact"));
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
  if (key->table == Table::kMapping && !IsMapping(*payload)) {
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
  Finder finder;
  finder.Find(file, kIdentityId);
  const std::optional<std::string>& found = finder.found();
  if (found && found->size() >= sizeof(StoreIdentity::version)) {
    return StoreIdentity{.version = FromLittle<uint32_t>(*found),
                         .boot_id = found->substr(sizeof(StoreIdentity::version))};
  }
  return Corrupt(
      path, finder.problem().empty() ? "the record of its format is missing" : finder.problem());
}

uint64_t ReadKeptPosition(PageFile& file) {
  Finder finder;
  finder.Find(file, kPositionId);
  return finder.found() ? DecodePosition(*finder.found()) : 0;
}

absl::StatusOr<RecordCounts> CheckFile(PageFile& file, const std::string& path) {
  if (!file.meta_problems().empty()) return Corrupt(path, Describe(file.meta_problems().front()));
  Counter low;
  Counter high;
  if (file.WalkFree(low)) {
    std::unique_ptr<PageFile> other;
    if (file.meta() && file.meta()->main.leaf_pages >= kManyLeaves) {
      absl::StatusOr<std::unique_ptr<PageFile>> opened = PageFile::Open(path);
      if (!opened.ok()) return opened.status();
      other = *std::move(opened);
    }
    if (other != nullptr) {
      (void)file.WalkMainInHalves(*other, BeginsRecord, low, high);
    } else {
      (void)file.WalkMain("", "", low);
    }
  }
  for (Counter* counter : {&low, &high}) {
    if (const std::optional<PageProblem> problem = counter->TakeProblem()) {
      return Corrupt(path, Describe(*problem));
    }
  }
  RecordCounts counts = low.counts();
  for (size_t i = 0; i < counts.size(); ++i) counts[i] += high.counts()[i];
  return counts;
}

}  // namespace iovad::store
