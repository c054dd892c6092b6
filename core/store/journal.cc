#include "core/store/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "core/fault_point.h"
#include "core/store/lmdb_env.h"

namespace iovad::store {
namespace {

// The file dies with the host, so its numbers are in the host's byte order.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t crc;  // of what is before it
};
constexpr char kMagic[8] = {'i', 'o', 'v', 'a', 'd', 'j', 'n', 'l'};
constexpr uint32_t kVersion = 1;

struct MarkForm {
  uint64_t first;  // the first record's number
  uint64_t next;   // the number of the record to come
  uint64_t end;    // where it will be
  uint32_t crc;    // of what is before it
  uint32_t zero;
};
constexpr uint64_t kMarkAt = 64;

struct RecordHead {
  uint64_t sequence;
  uint32_t bytes;
  uint32_t crc;  // of what is before it, and the bytes
};
constexpr uint64_t kFirstRecordAt = 128;

template <typename Form>
std::string_view BytesBeforeCrc(const Form& form) {
  return {reinterpret_cast<const char*>(&form), offsetof(Form, crc)};
}

absl::Status Failed(const std::string& path, int error) {
  const absl::Status status = LmdbError(error, path);
  return status.ok() ? absl::InternalError(path) : status;
}

// All or an error number.
int WriteAll(int fd, absl::Span<iovec> pieces, uint64_t at) {
  while (!pieces.empty()) {
    const ssize_t n =
        pwritev(fd, pieces.data(), static_cast<int>(std::min<size_t>(pieces.size(), 64)),
                static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : ENOSPC;
    at += static_cast<uint64_t>(n);
    auto left = static_cast<size_t>(n);
    while (!pieces.empty() && left >= pieces.front().iov_len) {
      left -= pieces.front().iov_len;
      pieces.remove_prefix(1);
    }
    if (left != 0) {
      pieces.front().iov_base = static_cast<char*>(pieces.front().iov_base) + left;
      pieces.front().iov_len -= left;
    }
  }
  return 0;
}

iovec Piece(std::string_view bytes) {
  return {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
}

// The file's first `most` bytes, or all of it where it is shorter.
absl::StatusOr<std::string> ReadUpTo(uint64_t most, int fd, const std::string& path) {
  struct stat there = {};
  if (fstat(fd, &there) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(there.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no regular file"));
  }
  std::string bytes(std::min(static_cast<uint64_t>(there.st_size), most), '\0');
  size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t n = pread(fd, bytes.data() + got, bytes.size() - got, static_cast<off_t>(got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, path);
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

template <typename Form>
std::optional<Form> FormAt(std::string_view bytes, uint64_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(Form)) return std::nullopt;
  Form form = {};
  std::memcpy(&form, bytes.data() + at, sizeof(form));
  return form;
}

// Nothing when it does not begin as a journal does.
std::optional<Header> ReadHeader(std::string_view bytes) {
  const auto header = FormAt<Header>(bytes, 0);
  if (!header || std::memcmp(header->magic, kMagic, sizeof(kMagic)) != 0 ||
      header->crc != Crc32c(BytesBeforeCrc(*header))) {
    return std::nullopt;
  }
  return header;
}

absl::Status NewerVersion(const std::string& path, uint32_t version) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the journal ", path, " has version ", version, ", and this iovad knows versions up to ",
      kVersion, ": run the newer one, or name another state directory"));
}

MarkForm MakeMark(uint64_t first, uint64_t next, uint64_t end) {
  MarkForm mark = {.first = first, .next = next, .end = end, .crc = 0, .zero = 0};
  mark.crc = Crc32c(BytesBeforeCrc(mark));
  return mark;
}

std::optional<MarkForm> ReadMark(std::string_view bytes) {
  const auto mark = FormAt<MarkForm>(bytes, kMarkAt);
  if (!mark || mark->crc != Crc32c(BytesBeforeCrc(*mark)) || mark->zero != 0 ||
      mark->first > mark->next || mark->end < kFirstRecordAt) {
    return std::nullopt;
  }
  return mark;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Make(const std::string& path, uint64_t next) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return absl::ErrnoToStatus(errno, "cannot open " + path);
  // Header and mark at once: no journal begins with one of them.
  struct {
    Header header = {.magic = {}, .version = kVersion, .crc = 0};
    char zeros[kMarkAt - sizeof(Header)] = {};
    MarkForm mark = {};
    char more_zeros[kFirstRecordAt - kMarkAt - sizeof(MarkForm)] = {};
  } begin;
  static_assert(sizeof(begin) == kFirstRecordAt);
  std::memcpy(begin.header.magic, kMagic, sizeof(kMagic));
  begin.header.crc = Crc32c(BytesBeforeCrc(begin.header));
  begin.mark = MakeMark(next, next, kFirstRecordAt);
  iovec piece = Piece({reinterpret_cast<const char*>(&begin), sizeof(begin)});
  if (const int error = WriteAll(fd.get(), absl::MakeSpan(&piece, 1), 0)) {
    return Failed(path, error);
  }
  return std::unique_ptr<Journal>(new Journal(path, std::move(fd), begin.mark.next));
}

absl::Status Journal::CheckVersion(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::string bytes(sizeof(Header), '\0');
  if (!fd || pread(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return absl::OkStatus();
  }
  const std::optional<Header> header = ReadHeader(bytes);
  if (!header || header->version <= kVersion) return absl::OkStatus();
  return NewerVersion(path, header->version);
}

absl::StatusOr<JournalContents> Journal::Read(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) return absl::ErrnoToStatus(errno, "cannot open " + path);
  absl::StatusOr<std::string> read = ReadUpTo(kFirstRecordAt, fd.get(), path);
  if (!read.ok()) return read.status();
  const std::optional<MarkForm> mark = ReadMark(*read);
  // What is behind the end is room for what is to come.
  read = ReadUpTo(mark ? std::max(mark->end, kFirstRecordAt) : ~uint64_t{0}, fd.get(), path);
  if (!read.ok()) return read.status();
  const std::string_view bytes = *read;
  JournalContents contents;
  const auto problem = [&](uint64_t at, const char* what) {
    contents.problems.push_back(absl::StrCat("journal ", path, ", byte ", at, ": ", what));
  };
  const std::optional<Header> header = ReadHeader(bytes);
  if (!header) {
    problem(0, "it does not begin as a journal does");
  } else if (header->version > kVersion) {
    return NewerVersion(path, header->version);
  } else if (header->version != kVersion) {
    problem(0, "it is of a version that no iovad writes");
    return contents;
  }
  if (!mark) {
    problem(kMarkAt, "the mark, which says how far the journal counts, is damaged");
  } else if (mark->end > bytes.size()) {
    problem(bytes.size(), "the file ends here, and should not");
  }
  const uint64_t end = mark ? std::min<uint64_t>(mark->end, bytes.size()) : bytes.size();
  uint64_t sequence = mark ? mark->first : 0;
  uint64_t at = kFirstRecordAt;
  while (at < end) {
    const auto head = FormAt<RecordHead>(bytes.substr(0, end), at);
    const bool fits = head && head->bytes <= end - at - sizeof(RecordHead);
    const std::string_view payload =
        fits ? bytes.substr(at + sizeof(RecordHead), head->bytes) : std::string_view();
    if (!fits || head->crc != Crc32c(payload, Crc32c(BytesBeforeCrc(*head))) ||
        (sequence != 0 && head->sequence != sequence)) {
      // Without the mark this is where records end, or where one is damaged.
      if (mark) problem(at, "a record is damaged");
      break;
    }
    std::optional<WriteBatch> batch = WriteBatch::FromBytes(payload);
    if (!batch) {
      problem(at, "a record that no iovad writes");
      break;
    }
    contents.records.push_back({head->sequence, *std::move(batch)});
    sequence = head->sequence + 1;
    at += sizeof(RecordHead) + head->bytes;
  }
  contents.next = mark ? mark->next : std::max<uint64_t>(sequence, 1);
  if (mark && contents.problems.empty() && sequence != mark->next) {
    problem(at, "records are missing at its end");
  }
  return contents;
}

Journal::Journal(std::string path, UniqueFd fd, uint64_t next)
    : path_(std::move(path)), fd_(std::move(fd)), first_(next), next_(next), end_(kFirstRecordAt) {}

uint64_t Journal::bytes() const { return end_ - kFirstRecordAt; }

absl::Status Journal::Mark(uint64_t first, uint64_t next, uint64_t end) {
  const MarkForm mark = MakeMark(first, next, end);
  iovec piece = Piece({reinterpret_cast<const char*>(&mark), sizeof(mark)});
  if (const int error = WriteAll(fd_.get(), absl::MakeSpan(&piece, 1), kMarkAt)) {
    return Failed(path_, error);
  }
  first_ = first;
  next_ = next;
  end_ = end;
  return absl::OkStatus();
}

absl::Status Journal::Append(absl::Span<const std::string_view> batches) {
  if (const int error = FaultPoint("store.begin")) return Failed(path_, error);
  RecordHead head = {.sequence = next_, .bytes = 0, .crc = 0};
  uint64_t bytes = 0;
  for (const std::string_view batch : batches) bytes += batch.size();
  if (bytes > UINT32_MAX) return absl::InternalError("a record of more than 4 GiB");
  head.bytes = static_cast<uint32_t>(bytes);
  head.crc = Crc32c(BytesBeforeCrc(head));
  std::vector<iovec> pieces = {Piece({reinterpret_cast<const char*>(&head), sizeof(head)})};
  pieces.reserve(batches.size() + 1);
  for (const std::string_view batch : batches) {
    head.crc = Crc32c(batch, head.crc);
    pieces.push_back(Piece(batch));
  }
  if (const int error = WriteAll(fd_.get(), absl::MakeSpan(pieces), end_)) {
    return Failed(path_, error);
  }
  if (const int error = FaultPoint("store.before_commit")) return Failed(path_, error);
  absl::Status status = Mark(first_, next_ + 1, end_ + sizeof(head) + bytes);
  if (status.ok()) (void)FaultPoint("store.after_commit");
  return status;
}

absl::Status Journal::Reset(uint64_t next) { return Mark(next, next, kFirstRecordAt); }

}  // namespace iovad::store
