// Reads LMDB's file without LMDB: every page, trusting none.
//
// Purpose. LMDB maps its file and follows what stands in it, so a damaged one can
// take the process down (SIGSEGV, SIGBUS, an assertion) or, worse, be taken for a
// whole one. This reads the same form with read(2) and checks each number before it
// is used: headers, offsets, the order of keys, that no page is used twice, that no
// page in use is in the list of free ones, and that the counts agree. A file that
// passes is one that LMDB can be given; of one that does not, what is intact can
// still be read.
//
// The form is that of LMDB 0.9 (data version 1) on a 64-bit machine: lmdb.h and the
// comments on MDB_page, MDB_node, MDB_db and MDB_meta in mdb.c. Another data version
// is refused.
//
// Thread safety. An object is for one thread at a time.
//
// Invariants.
//  1. No content of the file leads to anything but an answer: no crash, no endless
//     walk, memory bounded by the file's size.
//
// Example:
//   auto file = PageFile::Open(path);
//   (*file)->WalkMain(/*first=*/"", /*last=*/"", sink);
#ifndef IOVAD_CORE_STORE_PAGE_FILE_H_
#define IOVAD_CORE_STORE_PAGE_FILE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/unique_fd.h"

namespace iovad::store {

// What is wrong with a page, or with one record in it. A walk that meets one goes on
// with the rest.
struct PageProblem {
  uint64_t page = 0;
  std::string text = {};
  // Keys that may have been lost with it, [first, end); empty: from the first key,
  // or to the last one.
  std::string first_key = {};
  std::string end_key = {};
};

// Where a walk reports to.
class PageSink {
 public:
  virtual ~PageSink() = default;
  // False when the record is damaged, which the sink has noted itself then.
  virtual bool OnRecord(uint64_t page, std::string_view key, std::string_view value) = 0;
  // False ends the walk.
  virtual bool OnProblem(PageProblem problem) = 0;
};

// MDB_db: a tree.
struct TreeRoot {
  uint32_t pad = 0;
  uint16_t flags = 0;
  uint16_t depth = 0;
  uint64_t branch_pages = 0;
  uint64_t leaf_pages = 0;
  uint64_t overflow_pages = 0;
  uint64_t entries = 0;
  uint64_t root = 0;
};

// MDB_meta: the state after one transaction. The last two are kept.
struct MetaPage {
  TreeRoot free = {};
  TreeRoot main = {};
  uint64_t last_page = 0;
  uint64_t transaction = 0;
};

// MDB_node: a record of a leaf, or a separator of a branch.
struct PageNode {
  std::string_view key = {};
  std::string_view data = {};  // leaves only
  uint64_t child = 0;          // branches only
  uint32_t data_bytes = 0;     // of a record; `data` says where it is when they are elsewhere
  uint16_t flags = 0;
};

class PageFile {
 public:
  // An error only when the file cannot be opened or read at all.
  static absl::StatusOr<std::unique_ptr<PageFile>> Open(const std::string& path);

  // The newer of the intact meta pages; nothing when neither is.
  const std::optional<MetaPage>& meta() const { return meta_; }
  // What is wrong with the meta pages.
  const std::vector<PageProblem>& meta_problems() const { return meta_problems_; }

  // Reads the list of free pages. To be done before `WalkMain` and
  // `ReadLostLeaves`, which ask whether a page is free.
  bool WalkFree(PageSink& sink);
  // All records of the main tree from `first` to before `end` in order (empty: no
  // bound). Of the whole tree, the counts are checked, too. False when the sink
  // ended it.
  bool WalkMain(std::string_view first, std::string_view end, PageSink& sink);
  // The whole main tree, with a second thread for about half of it: `low` is told of the
  // records below some separator for which `may_divide` is true, `high` of the others.
  // `other` is another object for the same file. False when a sink ended its half.
  using MayDivide = absl::FunctionRef<bool(std::string_view key)>;
  bool WalkMainInHalves(PageFile& other, MayDivide may_divide, PageSink& low, PageSink& high);
  // Leaves that nothing leads to and that are not free: those below a damaged
  // branch. To be asked after a whole WalkMain, and when WalkFree met no problem.
  // Nothing is read unless they are, in pages and in records, as many as the walk
  // missed, and no page was met both in the tree and in the list of free ones: else
  // some might be of an earlier transaction.
  bool ReadLostLeaves(PageSink& sink);

  // Pages that neither the tree nor the list of free pages has. LMDB leaves none;
  // they would cost room and nothing else.
  uint64_t LeakedPages() const;
  uint64_t file_pages() const { return file_pages_; }
  uint32_t page_bytes() const { return page_bytes_; }

 private:
  // A subtree to walk, and the keys that may be in it.
  struct Subtree {
    uint64_t page;
    unsigned levels;  // 1: a leaf
    std::string_view first;
    std::string_view end;
  };
  struct Totals {
    uint64_t branch_pages = 0;
    uint64_t leaf_pages = 0;
    uint64_t overflow_pages = 0;
    uint64_t entries = 0;
    uint64_t bad_entries = 0;  // on pages whose header is right
  };
  // One walk's surroundings.
  struct Walk {
    PageSink& sink;
    bool free_list;
    std::string first;
    std::string end;
    Totals totals = {};
    bool clean = true;
  };
  PageFile(UniqueFd fd, std::string path, uint64_t file_bytes);
  void ReadMetas();
  std::optional<MetaPage> ReadMeta(uint64_t page);
  // False when the list of free pages is surely of another transaction.
  bool FreedLast(const MetaPage& meta) const;

  bool ReadPages(uint64_t page, uint64_t count, std::string* bytes) const;
  // Marks a page as in use; says why not when it cannot be.
  std::string Use(uint64_t page, std::vector<bool>* pages);
  // Why a page has no records that could be trusted; empty when it has.
  std::string CheckHeader(uint64_t page, bool leaf, std::string_view bytes) const;

  bool WalkTree(const TreeRoot& root, Walk& walk);
  bool WalkSubtree(const Subtree& subtree, Walk& walk);
  static Subtree Whole(const TreeRoot& root) {
    return {.page = root.root, .levels = root.depth, .first = {}, .end = {}};
  }
  bool CheckTotals(const TreeRoot& root, Walk& walk);
  const std::string* ReadRoot(const Subtree& subtree, Walk& walk, bool* go_on);
  bool ReadBranch(const Subtree& subtree, Walk& walk, std::vector<Subtree>* children);
  bool WalkChildren(absl::Span<const Subtree> children, Walk& walk);
  bool WalkLeaf(const Subtree& subtree, std::string_view bytes, Walk& walk);
  bool TakeFreeRecord(uint64_t page, const PageNode& node, Walk& walk);
  static bool Report(Walk& walk, const Subtree& subtree, std::string text);
  static int Compare(const Walk& walk, std::string_view a, std::string_view b);

  const UniqueFd fd_;
  const std::string path_;
  const uint32_t page_bytes_;
  const uint64_t file_pages_;
  std::optional<MetaPage> meta_;
  std::vector<PageProblem> meta_problems_;
  // By page: in use by a tree; in the list of free ones.
  std::vector<bool> used_;
  std::vector<bool> free_;
  // Of the last whole walk of the main tree.
  Totals main_totals_;
  bool used_and_free_ = false;
  // The pages that a walk is in, by their height above the leaves.
  std::vector<std::string> walked_;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_PAGE_FILE_H_
