// The file that `iovactl import` reads: any bytes are answered with messages or with
// an error.
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "client/iovactl/export_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  iovad::ctl::ExportReader reader(in);
  iovad::v1::ExportSpaceResponse message;
  while (true) {
    const absl::StatusOr<bool> more = reader.Next(message);
    if (!more.ok() || !*more) return 0;
  }
}
