// Is a store's file whole? Asked before LMDB is given it.
//
// Purpose. Goes over every page and every record without LMDB (page_file.h) and says
// which page, and which record, is wrong. A file with which anything is wrong is not
// opened: LMDB would follow it.
//
// Thread safety. Free functions; `RecordSink` is for one thread at a time.
#ifndef IOVAD_CORE_STORE_CHECK_H_
#define IOVAD_CORE_STORE_CHECK_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/fold.h"
#include "core/store/page_file.h"
#include "core/store/record.h"

namespace iovad::store {

// The store's record about itself.
struct StoreIdentity {
  uint32_t version = kFormatVersion;
  std::string boot_id = {};
};
std::string EncodeIdentity(const StoreIdentity& identity);

// Where the store's records about itself are, in the table kMeta of kServer.
inline constexpr uint64_t kIdentityId = 0;
inline constexpr uint64_t kPositionId = 1;

// How far LMDB reaches: the number of the first record of a journal that is not in it.
std::string EncodePosition(uint64_t next);
// 0 for what is none.
uint64_t DecodePosition(std::string_view bytes);

// Looks at nothing else: the store may be damaged elsewhere, or have a form of which
// no more is known. STORE_CORRUPT when the record cannot be found or read.
absl::StatusOr<StoreIdentity> ReadIdentity(PageFile& file, const std::string& path);

// The same for how far the store reaches (journals.h); 0 when that cannot be read.
uint64_t ReadKeptPosition(PageFile& file);

// STORE_CORRUPT, and what to do about it.
absl::Status Damaged(const std::string& what);

// OK and the number of records by table, or STORE_CORRUPT with the first thing that
// is wrong.
absl::StatusOr<RecordCounts> CheckFile(PageFile& file, const std::string& path);

// "page 17: its bounds are wrong (space 1 mapping 60 to before space 1 mapping 120)"
std::string Describe(const PageProblem& problem);

// A sink that looks into the records: keys, CRCs and the form of mappings.
class RecordSink : public PageSink {
 public:
  bool OnRecord(uint64_t page, std::string_view key, std::string_view value) final;

 protected:
  // A record that is right by itself. `payload` is that of a mapping, or one part of
  // a blob.
  virtual void OnGood(const RecordKey& key, std::string_view key_bytes, std::string_view value,
                      std::string_view payload) = 0;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_CHECK_H_
