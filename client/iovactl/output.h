// Where answers go: standard output, as a table or as JSON.
//
// Purpose. Commands make text or JSON and hand it over; whether colours are used
// and what happens when nobody reads any more is decided here.
//
// Thread safety. One thread.
//
// Invariants.
//  1. After a failed write nothing more is written, and `Finish` says so. A reader
//     that went away (EPIPE: `iovactl ls | head`) is no failure.
#ifndef IOVAD_CLIENT_IOVACTL_OUTPUT_H_
#define IOVAD_CLIENT_IOVACTL_OUTPUT_H_

#include <string_view>

#include "absl/status/status.h"
#include "client/iovactl/json.h"
#include "client/iovactl/palette.h"

namespace iovad::ctl {

enum class Format { kTable, kJson };
enum class ColorMode { kAuto, kAlways, kNever };

// Whether to colour what goes to `fd`: by `mode`, and with kAuto on a terminal
// unless NO_COLOR is set (no-color.org) or TERM is "dumb".
bool UseColor(ColorMode mode, int fd);

class Output {
 public:
  Output(Format format, ColorMode color) : format_(format), palette_(UseColor(color, 1)) {}

  bool json() const { return format_ == Format::kJson; }
  const Palette& palette() const { return palette_; }

  // As it is. False when nothing can be written any more.
  bool Write(std::string_view text);
  // An answer in JSON, over several lines.
  bool WriteJson(const Json& json);
  // One line, at once: for streams.
  bool WriteJsonLine(const Json& json);
  // Gives what is buffered to the reader.
  bool Flush();

  // OK, or why not everything could be written.
  absl::Status Finish();

 private:
  void Fail();

  Format format_;
  Palette palette_;
  // errno of the write that failed.
  int failure_ = 0;
};

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_OUTPUT_H_
