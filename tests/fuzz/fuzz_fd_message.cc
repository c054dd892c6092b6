// Whatever comes over the fd socket is refused, or is a message that is written
// again byte for byte.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/fd_message.h"
#include "core/name.h"

namespace {

void Check(bool condition) {
  if (!condition) std::abort();
}

void TryRequest(const std::string& bytes) {
  const absl::StatusOr<iovad::FdRequest> request = iovad::ParseFdRequest(bytes);
  if (!request.ok()) {
    Check(iovad::ReasonOf(request.status()) != iovad::Reason::kUnspecified);
    return;
  }
  Check(iovad::FormatFdRequest(*request) == bytes);
  Check(iovad::IsValidLabel(request->name));
  Check(request->handle.empty() || iovad::IsFdHandle(request->handle));
}

void TryAnswer(const std::string& bytes) {
  const absl::StatusOr<iovad::FdAnswer> answer = iovad::ParseFdAnswer(bytes);
  if (answer.ok()) Check(iovad::FormatFdAnswer(*answer) == bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  TryRequest(bytes);
  TryAnswer(bytes);
  // Most damage changes the size, which alone is enough to be refused.
  bytes.resize(iovad::kFdAnswerSize);
  TryAnswer(bytes);
  bytes.resize(iovad::kFdRequestSize);
  TryRequest(bytes);
  return 0;
}
