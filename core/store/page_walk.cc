// PageFile's walks over trees.
#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/store/page_file.h"
#include "core/store/page_form.h"

namespace iovad::store {

namespace {

// As memcmp would, but for keys of 13 bytes and more by two comparisons of 8.
int CompareBytes(std::string_view a, std::string_view b) {
  constexpr size_t kLeast = 13;
  if (a.size() >= kLeast && b.size() >= kLeast) {
    for (const size_t at : {size_t{0}, kLeast - sizeof(uint64_t)}) {
      const uint64_t left = __builtin_bswap64(form::Load<uint64_t>(a, at));
      const uint64_t right = __builtin_bswap64(form::Load<uint64_t>(b, at));
      if (left != right) return left < right ? -1 : 1;
    }
  }
  return a.compare(b);
}

}  // namespace

// Keys of the list of free pages are numbers of transactions.
int PageFile::Compare(const Walk& walk, std::string_view a, std::string_view b) {
  if (!walk.free_list || a.size() != 8 || b.size() != 8) return CompareBytes(a, b);
  const auto left = form::Load<uint64_t>(a, 0);
  const auto right = form::Load<uint64_t>(b, 0);
  return left < right ? -1 : static_cast<int>(left > right);
}

bool PageFile::Report(Walk& walk, const Subtree& subtree, std::string text) {
  walk.clean = false;
  PageProblem problem = {.page = subtree.page, .text = std::move(text)};
  if (walk.free_list) {
    problem.text = "list of free pages: " + problem.text;
  } else {
    problem.first_key = subtree.first;
    problem.end_key = subtree.end;
  }
  return walk.sink.OnProblem(std::move(problem));
}

bool PageFile::WalkFree(PageSink& sink) {
  if (!meta_) return true;
  Walk walk = {.sink = sink, .free_list = true};
  return WalkTree(meta_->free, walk);
}

bool PageFile::WalkMain(std::string_view first, std::string_view end, PageSink& sink) {
  if (!meta_) return true;
  Walk walk = {
      .sink = sink, .free_list = false, .first = std::string(first), .end = std::string(end)};
  return WalkTree(meta_->main, walk);
}

bool PageFile::WalkTree(const TreeRoot& root, Walk& walk) {
  if (root.root == form::kNoPage) return true;
  const bool whole = walk.first.empty() && walk.end.empty();
  // A look at a part leaves no marks.
  std::vector<bool> before;
  if (!whole) before = used_;
  const bool go_on = WalkSubtree(Whole(root), walk);
  if (!whole) used_ = std::move(before);
  if (whole && !walk.free_list) main_totals_ = walk.totals;
  return go_on && whole ? CheckTotals(root, walk) : go_on;
}

bool PageFile::CheckTotals(const TreeRoot& root, Walk& walk) {
  // Counts would only repeat what was reported already.
  if (!walk.clean) return true;
  const Totals& found = walk.totals;
  if (found.branch_pages != root.branch_pages || found.leaf_pages != root.leaf_pages ||
      found.overflow_pages != root.overflow_pages || found.entries != root.entries) {
    return Report(walk, Whole(root),
                  absl::StrCat("the tree has ", found.entries, " records on ", found.leaf_pages,
                               " leaves, and should have ", root.entries, " on ", root.leaf_pages));
  }
  return true;
}

bool PageFile::WalkMainInHalves(PageFile& other, MayDivide may_divide, PageSink& low,
                                PageSink& high) {
  if (!meta_ || meta_->main.depth < 2) return WalkMain("", "", low);
  const TreeRoot& root = meta_->main;
  Walk walk = {.sink = low, .free_list = false};
  Walk beside = {.sink = high, .free_list = false};
  std::vector<Subtree> children;
  if (!ReadBranch(Whole(root), walk, &children)) return false;
  // The child nearest to the middle that may be the first of the upper half.
  const size_t middle = children.size() / 2;
  size_t first = children.size();
  for (size_t i = 1; i < children.size(); ++i) {
    const auto distance = [middle](size_t at) { return at > middle ? at - middle : middle - at; };
    if (may_divide(children[i].first) && distance(i) < distance(first)) first = i;
  }
  const absl::Span<const Subtree> all(children);
  other.used_ = used_;
  other.free_ = free_;
  const std::vector<bool> shared = used_;
  bool high_goes_on = true;
  std::thread thread([&] { high_goes_on = other.WalkChildren(all.subspan(first), beside); });
  const bool low_goes_on = WalkChildren(all.first(first), walk);
  thread.join();
  if (!low_goes_on || !high_goes_on) return false;
  for (size_t page = 0; page < used_.size(); ++page) {
    if (used_[page] && other.used_[page] && !shared[page]) {
      const Subtree there = {.page = page, .levels = 1, .first = {}, .end = {}};
      if (!Report(walk, there, "a page that is in use elsewhere")) return false;
    }
    used_[page] = used_[page] || other.used_[page];
  }
  used_and_free_ = used_and_free_ || other.used_and_free_;
  walk.clean = walk.clean && beside.clean;
  walk.totals.branch_pages += beside.totals.branch_pages;
  walk.totals.leaf_pages += beside.totals.leaf_pages;
  walk.totals.entries += beside.totals.entries;
  walk.totals.bad_entries += beside.totals.bad_entries;
  main_totals_ = walk.totals;
  return CheckTotals(root, walk);
}

// Marks the subtree's page as used and reads it. Null when it is of no use, which was
// reported then; `go_on` says whether to go on.
const std::string* PageFile::ReadRoot(const Subtree& subtree, Walk& walk, bool* go_on) {
  if (std::string text = Use(subtree.page, &used_); !text.empty()) {
    *go_on = Report(walk, subtree, std::move(text));
    return nullptr;
  }
  if (walked_.size() <= subtree.levels) walked_.resize(subtree.levels + 1);
  std::string& bytes = walked_[subtree.levels];
  if (!ReadPages(subtree.page, 1, &bytes)) {
    *go_on = Report(walk, subtree, "cannot be read: the file is cut short");
    return nullptr;
  }
  const bool leaf = subtree.levels == 1;
  if (std::string text = CheckHeader(subtree.page, leaf, bytes); !text.empty()) {
    *go_on = Report(walk, subtree, std::move(text));
    return nullptr;
  }
  ++(leaf ? walk.totals.leaf_pages : walk.totals.branch_pages);
  return &bytes;
}

bool PageFile::WalkSubtree(const Subtree& subtree, Walk& walk) {
  if (subtree.levels > 1) {
    std::vector<Subtree> children;
    return ReadBranch(subtree, walk, &children) && WalkChildren(children, walk);
  }
  bool go_on = true;
  const std::string* const bytes = ReadRoot(subtree, walk, &go_on);
  return bytes == nullptr ? go_on : WalkLeaf(subtree, *bytes, walk);
}

// All separators are looked at before any child: one that is wrong makes it unknown
// where its neighbours' keys end, and then there are no children.
bool PageFile::ReadBranch(const Subtree& subtree, Walk& walk, std::vector<Subtree>* children) {
  bool go_on = true;
  const std::string* const bytes = ReadRoot(subtree, walk, &go_on);
  if (bytes == nullptr) return go_on;
  const auto refuse = [&](std::string text) {
    children->clear();
    return Report(walk, subtree, std::move(text));
  };
  const size_t count = form::NodeCount(*bytes);
  for (size_t i = 0; i < count; ++i) {
    PageNode node;
    if (!form::ReadNode(*bytes, i, /*leaf=*/false, &node)) {
      return refuse(absl::StrCat("entry ", i, " is out of bounds"));
    }
    // The first one's key is not used.
    const std::string_view key = i == 0 ? subtree.first : node.key;
    if (i > 0) {
      const std::string_view before = children->back().first;
      if (key.empty() || (!before.empty() && Compare(walk, before, key) >= 0) ||
          (!subtree.end.empty() && Compare(walk, key, subtree.end) >= 0)) {
        return refuse(absl::StrCat("entry ", i, " is out of order"));
      }
      children->back().end = key;
    }
    children->push_back(
        {.page = node.child, .levels = subtree.levels - 1, .first = key, .end = subtree.end});
  }
  return true;
}

bool PageFile::WalkChildren(absl::Span<const Subtree> children, Walk& walk) {
  for (const Subtree& child : children) {
    if (!walk.first.empty() && !child.end.empty() && child.end <= walk.first) continue;
    if (!walk.end.empty() && child.first >= walk.end) break;
    if (!WalkSubtree(child, walk)) return false;
  }
  return true;
}

bool PageFile::WalkLeaf(const Subtree& subtree, std::string_view bytes, Walk& walk) {
  std::string_view before;
  const size_t count = form::NodeCount(bytes);
  size_t taken = form::Upper(bytes);
  PageNode node;
  for (size_t i = 0; i < count; ++i) {
    if (!form::ReadNode(bytes, i, /*leaf=*/true, &node) || (node.flags != 0 && !walk.free_list)) {
      ++walk.totals.bad_entries;
      if (!Report(walk, subtree, absl::StrCat("record ", i, " is out of bounds"))) return false;
      continue;
    }
    taken += (form::kNodeBytes + node.key.size() + node.data.size() + 1) & ~size_t{1};
    // What comes after one that is not below the subtree's first key is not, either.
    const bool above = !before.empty()         ? Compare(walk, before, node.key) < 0
                       : subtree.first.empty() ? !node.key.empty()
                                               : Compare(walk, subtree.first, node.key) <= 0;
    const bool in_order =
        above && (subtree.end.empty() || Compare(walk, node.key, subtree.end) < 0);
    if (!walk.first.empty() && node.key < walk.first) continue;
    if (!walk.end.empty() && node.key >= walk.end) break;
    if (!in_order) {
      ++walk.totals.bad_entries;
      if (!Report(walk, subtree, absl::StrCat("record ", i, " is out of order"))) return false;
      continue;
    }
    if (walk.free_list) {
      if (!TakeFreeRecord(subtree.page, node, walk)) return false;
    } else if (!walk.sink.OnRecord(subtree.page, node.key, node.data)) {
      ++walk.totals.bad_entries;
      walk.clean = false;
      continue;
    }
    before = node.key;
    ++walk.totals.entries;
  }
  // LMDB keeps a page's records close together at its end.
  if (walk.clean && walk.first.empty() && walk.end.empty() && taken != page_bytes_) {
    return Report(walk, subtree, "its records do not fill it");
  }
  return true;
}

// The value is a count and that many page numbers, falling; room may be left behind.
bool PageFile::TakeFreeRecord(uint64_t page, const PageNode& node, Walk& walk) {
  const Subtree here = {.page = page, .levels = 1, .first = {}, .end = {}};
  std::string_view data = node.data;
  std::string run;
  if (node.flags != 0) {
    const auto first = form::Load<uint64_t>(node.data, 0);
    const uint64_t pages = (form::kHeaderBytes + node.data_bytes + page_bytes_ - 1) / page_bytes_;
    for (uint64_t i = 0; i < pages; ++i) {
      if (std::string text = first + i < first ? "no page" : Use(first + i, &used_);
          !text.empty()) {
        return Report(walk, here, "an overflow page is " + text);
      }
    }
    if (!ReadPages(first, pages, &run) || form::PageNumber(run) != first ||
        form::Flags(run) != form::kOverflowPage || form::RunLength(run) != pages) {
      return Report(walk, here, absl::StrCat("overflow page ", first, " is not one"));
    }
    walk.totals.overflow_pages += pages;
    data = std::string_view(run).substr(form::kHeaderBytes, node.data_bytes);
  }
  if (node.key.size() != 8 || data.size() < 8 ||
      form::Load<uint64_t>(data, 0) > data.size() / 8 - 1) {
    return Report(walk, here, "a record is too short");
  }
  uint64_t above = form::kNoPage;
  for (uint64_t i = form::Load<uint64_t>(data, 0), at = 8; i > 0; --i, at += 8) {
    const auto number = form::Load<uint64_t>(data, at);
    if (number >= above) return Report(walk, here, "page numbers are out of order");
    above = number;
    if (std::string text = Use(number, &free_); !text.empty()) {
      return Report(walk, here, absl::StrCat("page ", number, " is ", text));
    }
  }
  return true;
}

bool PageFile::ReadLostLeaves(PageSink& sink) {
  if (!meta_ || used_and_free_) return true;
  std::vector<uint64_t> lost;
  uint64_t entries = 0;
  std::string bytes;
  for (uint64_t page = 2; page < used_.size(); ++page) {
    if (used_[page] || free_[page] || !ReadPages(page, 1, &bytes)) continue;
    if (!CheckHeader(page, /*leaf=*/true, bytes).empty()) continue;
    lost.push_back(page);
    entries += form::NodeCount(bytes);
  }
  const Totals& walked = main_totals_;
  if (walked.leaf_pages + lost.size() != meta_->main.leaf_pages ||
      walked.entries + walked.bad_entries + entries != meta_->main.entries) {
    return true;
  }
  Walk walk = {.sink = sink, .free_list = false};
  for (const uint64_t page : lost) {
    if (!ReadPages(page, 1, &bytes)) continue;
    used_[page] = true;
    walk.clean = true;
    if (!WalkLeaf({.page = page, .levels = 1, .first = {}, .end = {}}, bytes, walk)) return false;
  }
  return true;
}

}  // namespace iovad::store
