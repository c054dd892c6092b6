// Whatever a file holds, reading it as a trace ends, and a trace that was read
// keeps what client/replay/trace.h promises.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "client/replay/trace.h"

namespace {

void Check(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using iovad::kMaxAddress;
  using iovad::replay::Event;
  std::stringstream in(std::string(reinterpret_cast<const char*>(data), size));
  const absl::StatusOr<iovad::replay::Trace> trace = iovad::replay::ReadTrace(in);
  if (!trace.ok()) return 0;
  bool open = false;
  for (const Event& event : trace->events) {
    if (event.kind == Event::Kind::kBatchBegin || event.kind == Event::Kind::kBatchCommit) {
      Check(open == (event.kind == Event::Kind::kBatchCommit));
      open = !open;
    }
    Check(event.first <= event.last);
    const uint64_t last_offset = event.last - event.first;
    Check(last_offset <= kMaxAddress - event.hva.value());
    for (const iovad::Gpa gpa : event.gpas) Check(last_offset <= kMaxAddress - gpa.value());
    if (trace->view == iovad::replay::View::kSections && event.kind == Event::Kind::kMap) {
      Check(event.gpas.size() == 1 && event.gpas[0].value() == event.first);
    }
    Check(event.label.size() <= 64);
  }
  return 0;
}
