// Whatever somebody types for an address, a size, a range, a queue or a fault, it
// is read or refused; what was read as a range can be written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "client/iovactl/fault_option.h"
#include "client/iovactl/svq_option.h"
#include "client/text/format.h"
#include "client/text/parse.h"

namespace {

void Check(bool condition) {
  if (!condition) std::abort();
}

void TryAll(std::string_view text) {
  using namespace iovad::text;  // NOLINT(google-build-using-namespace)
  const absl::StatusOr<uint64_t> size = ParseSize(text);
  Check(!size.ok() || *size > 0);
  if (const absl::StatusOr<uint64_t> number = ParseNumber(text); number.ok()) {
    Check(*ParseNumber(FormatHex(*number)) == *number);
  }
  if (const absl::StatusOr<Bounds> bounds = ParseBounds(text); bounds.ok()) {
    Check(bounds->first <= bounds->last);
    const absl::StatusOr<Bounds> again = ParseBounds(FormatRange(bounds->first, bounds->last));
    Check(again.ok() && again->first == bounds->first && again->last == bounds->last);
  }
  (void)ParseAnyAddress(text);
  (void)iovad::ctl::ParseSvq(text);
  (void)iovad::ctl::ParseFault(text);
  for (const char c : Printable(text)) Check(static_cast<unsigned char>(c) >= 0x20);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  // Each line is a text, and so is the whole.
  TryAll(text);
  while (!text.empty()) {
    const size_t end = text.find('\n');
    TryAll(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return 0;
}
