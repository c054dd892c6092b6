// A space's export as a file.
//
// Purpose. Writes the messages of ExportSpace into a file and reads them back for
// ImportSpace. The form:
//
//   "iovad export 1\n"                      15 bytes
//   then, until the end of the file, for each message
//     length in bytes                       a base-128 varint, as protobuf writes them
//     ExportSpaceResponse                   serialized
//
// How records are spread over messages means nothing. Whether they are whole and
// unchanged is for the server to say (the trailer's checksum); here only the form is
// looked at.
//
// Thread safety. Thread-compatible.
//
// Example:
//   ExportReader reader(file);
//   v1::ExportSpaceResponse message;
//   absl::StatusOr<bool> more;
//   while ((more = reader.Next(message)).ok() && *more) Send(message);
#ifndef IOVAD_CLIENT_IOVACTL_EXPORT_FILE_H_
#define IOVAD_CLIENT_IOVACTL_EXPORT_FILE_H_

#include <cstdint>
#include <istream>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/unique_fd.h"
#include "iovad/v1/migration.pb.h"

namespace iovad::ctl {

class ExportReader {
 public:
  explicit ExportReader(std::istream& in) : in_(in) {}

  // The next message; false at the end. INVALID_ARGUMENT says what is wrong with the
  // file, and at which byte.
  absl::StatusOr<bool> Next(v1::ExportSpaceResponse& message);

 private:
  absl::Status Wrong(std::string_view what) const;

  std::istream& in_;
  bool begun_ = false;
  uint64_t at_ = 0;
  std::string bytes_;
};

// Writes beside `path`, and puts it there once it is whole; before that, `path` is as
// it was. What is there and is no file (a terminal, a pipe) is written to directly, and
// so is standard output ("-").
class ExportWriter {
 public:
  // An error says what the system said.
  static absl::StatusOr<ExportWriter> Open(const std::string& path);
  ExportWriter(ExportWriter&&) = default;
  ExportWriter& operator=(ExportWriter&&) = delete;
  // Leaves nothing behind unless `Commit` was called.
  ~ExportWriter();

  absl::Status Write(const v1::ExportSpaceResponse& message);
  // On the disk, and under its name.
  absl::Status Commit();
  uint64_t bytes() const { return bytes_; }

 private:
  ExportWriter(std::string path, std::string temporary, UniqueFd fd);

  absl::Status WriteAll(std::string_view data);
  absl::Status Failed() const;

  std::string path_;
  std::string temporary_;  // empty: written directly
  UniqueFd fd_;
  uint64_t bytes_ = 0;
  bool committed_ = false;
};

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_EXPORT_FILE_H_
