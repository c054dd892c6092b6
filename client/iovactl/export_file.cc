#include "client/iovactl/export_file.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace iovad::ctl {
namespace {

constexpr std::string_view kMagic = "iovad export 1\n";
// No server sends more at a time.
constexpr uint32_t kMaxMessage = 64 << 20;
// Lengths below have so many bytes.
constexpr int kMaxLengthBytes = 4;

}  // namespace

// ---- Reading ------------------------------------------------------------------

absl::Status ExportReader::Wrong(std::string_view what) const {
  return absl::InvalidArgumentError(
      absl::StrCat("byte ", at_, ": ", absl::string_view(what.data(), what.size())));
}

absl::StatusOr<bool> ExportReader::Next(v1::ExportSpaceResponse& message) {
  if (!std::exchange(begun_, true)) {
    bytes_.resize(kMagic.size());
    in_.read(bytes_.data(), static_cast<std::streamsize>(bytes_.size()));
    bytes_.resize(static_cast<size_t>(in_.gcount()));
    if (bytes_ != kMagic) {
      return absl::InvalidArgumentError("it is no export of a space, or one of another version");
    }
    at_ = kMagic.size();
  }
  uint32_t length = 0;
  for (int i = 0;; ++i) {
    const int byte = in_.get();
    if (byte == std::istream::traits_type::eof()) {
      if (i == 0) return false;
      return Wrong("the file is cut off");
    }
    length |= static_cast<uint32_t>(byte & 0x7f) << (7 * i);
    if ((byte & 0x80) == 0) {
      at_ += static_cast<uint64_t>(i) + 1;
      break;
    }
    if (i + 1 == kMaxLengthBytes) return Wrong("no message is that long");
  }
  if (length > kMaxMessage) return Wrong("no message is that long");
  // Piece by piece: what a damaged length promises need not be there.
  constexpr uint32_t kPiece = 1 << 20;
  bytes_.clear();
  while (bytes_.size() < length) {
    const size_t have = bytes_.size();
    bytes_.resize(std::min<size_t>(length, have + kPiece));
    in_.read(bytes_.data() + have, static_cast<std::streamsize>(bytes_.size() - have));
    if (static_cast<size_t>(in_.gcount()) < bytes_.size() - have) {
      return Wrong("the file is cut off");
    }
  }
  if (!message.ParseFromString(bytes_)) return Wrong("there is no message of an export");
  at_ += length;
  return true;
}

// ---- Writing ------------------------------------------------------------------

absl::StatusOr<ExportWriter> ExportWriter::Open(const std::string& path) {
  const auto failed = [&path] {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  };
  std::string temporary;
  UniqueFd fd;
  struct stat there = {};
  if (path == "-") {
    fd = UniqueFd(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0));
  } else if (stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
    fd = UniqueFd(open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
  } else {
    temporary = path + ".XXXXXX";
    fd = UniqueFd(mkostemp(temporary.data(), O_CLOEXEC));
    if (fd) {
      // As open(2) would have made it; only umask(2) itself tells what it is.
      const mode_t mask = umask(0);
      umask(mask);
      fchmod(fd.get(), 0666 & ~mask);
    }
  }
  if (!fd) return failed();
  ExportWriter writer(path, std::move(temporary), std::move(fd));
  if (absl::Status s = writer.WriteAll(kMagic); !s.ok()) return s;
  return writer;
}

ExportWriter::ExportWriter(std::string path, std::string temporary, UniqueFd fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}

ExportWriter::~ExportWriter() {
  if (fd_ && !committed_ && !temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status ExportWriter::Failed() const {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
}

absl::Status ExportWriter::WriteAll(std::string_view data) {
  bytes_ += data.size();
  while (!data.empty()) {
    const ssize_t written = write(fd_.get(), data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed();
    data.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status ExportWriter::Write(const v1::ExportSpaceResponse& message) {
  uint8_t length[kMaxLengthBytes + 1];
  const std::string bytes = message.SerializeAsString();
  const uint8_t* const end = google::protobuf::io::CodedOutputStream::WriteVarint32ToArray(
      static_cast<uint32_t>(bytes.size()), length);
  absl::Status s =
      WriteAll({reinterpret_cast<const char*>(length), static_cast<size_t>(end - length)});
  if (s.ok()) s = WriteAll(bytes);
  return s;
}

absl::Status ExportWriter::Commit() {
  if (!temporary_.empty()) {
    if (fsync(fd_.get()) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) return Failed();
  }
  committed_ = true;
  return absl::OkStatus();
}

}  // namespace iovad::ctl
