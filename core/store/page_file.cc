#include "core/store/page_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/store/page_form.h"

namespace iovad::store {
namespace {

// A transaction may hand out pages at the end of the file and give them back
// unwritten: the file may be that much shorter than its last page's number says. LMDB's
// transactions end at that many pages (MDB_IDL_UM_MAX in its midl.h).
constexpr uint64_t kUnwrittenPages = uint64_t{1} << 17;
// LMDB's own bound on the height of a tree (CURSOR_STACK).
constexpr unsigned kMaxLevels = 32;

std::string CheckTree(const TreeRoot& tree, uint16_t flags, uint64_t last_page) {
  if (tree.flags != flags) return absl::StrCat("tree flags ", tree.flags);
  if (tree.root == form::kNoPage) {
    return tree.depth == 0 && tree.entries == 0 ? "" : "an empty tree with entries";
  }
  if (tree.root > last_page) return absl::StrCat("root page ", tree.root);
  if (tree.depth == 0 || tree.depth > kMaxLevels) return absl::StrCat("depth ", tree.depth);
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageFile>> PageFile::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return absl::ErrnoToStatus(errno, "cannot open " + path);
  struct stat there = {};
  if (fstat(fd.get(), &there) != 0) return absl::ErrnoToStatus(errno, path);
  std::unique_ptr<PageFile> file(
      new PageFile(std::move(fd), path, static_cast<uint64_t>(there.st_size)));
  file->ReadMetas();
  return file;
}

// LMDB's pages are those of the machine, as long as they fit its 16-bit offsets.
PageFile::PageFile(UniqueFd fd, std::string path, uint64_t file_bytes)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      page_bytes_(static_cast<uint32_t>(std::min<int64_t>(sysconf(_SC_PAGESIZE), 0x8000))),
      file_pages_(file_bytes / page_bytes_) {}

bool PageFile::ReadPages(uint64_t page, uint64_t count, std::string* bytes) const {
  if (page >= file_pages_ || count > file_pages_ - page) return false;
  bytes->resize(count * page_bytes_);
  size_t had = 0;
  while (had < bytes->size()) {
    const ssize_t n = pread(fd_.get(), bytes->data() + had, bytes->size() - had,
                            static_cast<off_t>(page * page_bytes_ + had));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    had += static_cast<size_t>(n);
  }
  return true;
}

std::optional<MetaPage> PageFile::ReadMeta(uint64_t page) {
  const auto wrong = [&](std::string text) -> std::optional<MetaPage> {
    meta_problems_.push_back({.page = page, .text = "meta page: " + std::move(text)});
    return std::nullopt;
  };
  std::string bytes;
  if (!ReadPages(page, 1, &bytes)) return wrong("cannot be read: the file is cut short");
  if (form::PageNumber(bytes) != page || form::Flags(bytes) != form::kMetaPage) {
    return wrong("not one");
  }
  const std::string_view body = std::string_view(bytes).substr(form::kHeaderBytes);
  if (form::Load<uint32_t>(body, 0) != form::kMagic) return wrong("not one of LMDB");
  if (const auto version = form::Load<uint32_t>(body, 4); version != form::kVersion) {
    return wrong(absl::StrCat("LMDB data version ", version, ", not ", form::kVersion));
  }
  const MetaPage meta = form::ParseMeta(body);
  if (meta.free.pad != page_bytes_) return wrong(absl::StrCat("page size ", meta.free.pad));
  if (meta.last_page < 1 || meta.last_page >= file_pages_ + kUnwrittenPages) {
    return wrong(absl::StrCat("last page ", meta.last_page, " of ", file_pages_));
  }
  for (const auto& [tree, flags] :
       {std::pair(meta.free, form::kFreeTreeFlags), std::pair(meta.main, form::kMainTreeFlags)}) {
    if (std::string text = CheckTree(tree, flags, meta.last_page); !text.empty()) {
      return wrong(std::move(text));
    }
  }
  return meta;
}

// Every transaction but the first replaces pages, the root at least, and adds what it
// replaced to the list of free pages under its own number. That tells a meta page whose
// number was damaged, which would otherwise bring an earlier state back.
bool PageFile::FreedLast(const MetaPage& meta) const {
  if (meta.transaction < 2) return true;
  uint64_t page = meta.free.root;
  std::string bytes;
  for (unsigned levels = meta.free.depth; levels > 0; --levels) {
    // What cannot be read is for the walk to report.
    if (!ReadPages(page, 1, &bytes) || !CheckHeader(page, levels == 1, bytes).empty()) return true;
    PageNode node;
    if (!form::ReadNode(bytes, form::NodeCount(bytes) - 1, levels == 1, &node)) return true;
    if (levels == 1) {
      return node.key.size() == 8 && form::Load<uint64_t>(node.key, 0) == meta.transaction;
    }
    page = node.child;
  }
  return false;
}

// Transaction N writes meta page N mod 2, so that two of successive transactions are
// there; a new file has two of transaction 0.
void PageFile::ReadMetas() {
  std::optional<MetaPage> metas[2] = {ReadMeta(0), ReadMeta(1)};
  const auto misnumbered = [this](uint64_t page, const MetaPage& meta) {
    if (meta.transaction == 0) return false;
    return meta.transaction % 2 != page || !FreedLast(meta);
  };
  for (uint64_t page = 0; page < 2; ++page) {
    if (metas[page] && misnumbered(page, *metas[page])) {
      meta_problems_.push_back(
          {.page = page,
           .text = absl::StrCat("meta page: holds transaction ", metas[page]->transaction)});
      metas[page].reset();
    }
  }
  if (metas[0] && metas[1]) {
    const uint64_t a = metas[0]->transaction;
    const uint64_t b = metas[1]->transaction;
    if (a != b && std::max(a, b) - std::min(a, b) != 1) {
      // Nothing says which of the two is right.
      meta_problems_.push_back(
          {.page = 0, .text = absl::StrCat("meta pages of transactions ", a, " and ", b)});
      return;
    }
    meta_ = a > b ? metas[0] : metas[1];
  } else {
    meta_ = metas[0] ? metas[0] : metas[1];
  }
  if (!meta_) return;
  used_.assign(meta_->last_page + 1, false);
  free_.assign(meta_->last_page + 1, false);
  used_[0] = used_[1] = true;
}

std::string PageFile::Use(uint64_t page, std::vector<bool>* pages) {
  if (page >= pages->size()) return "a page beyond the last one";
  if (used_[page]) return "a page that is in use elsewhere";
  if (free_[page]) {
    used_and_free_ = true;
    return "a page that is free";
  }
  (*pages)[page] = true;
  return "";
}

std::string PageFile::CheckHeader(uint64_t page, bool leaf, std::string_view bytes) const {
  if (form::PageNumber(bytes) != page) return "its number is wrong";
  if (form::Flags(bytes) != (leaf ? form::kLeafPage : form::kBranchPage)) {
    return absl::StrCat("flags ", form::Flags(bytes), " on a ", leaf ? "leaf" : "branch");
  }
  const uint32_t lower = form::Lower(bytes);
  const uint32_t upper = form::Upper(bytes);
  if (lower <= form::kHeaderBytes || lower % 2 != 0 || lower > upper || upper > page_bytes_) {
    return "its bounds are wrong";
  }
  return "";
}

uint64_t PageFile::LeakedPages() const {
  uint64_t leaked = 0;
  for (size_t page = 0; page < used_.size(); ++page) leaked += !used_[page] && !free_[page];
  return leaked;
}

}  // namespace iovad::store
