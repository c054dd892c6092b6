// What the plugin says to people: one line on QEMU's standard error when something does
// not work, and one when it works again.
//
// Thread safety. One thread at a time; several reports may write at once.
//
// Example:
//   TroubleReport report("vm1", "iovad");
//   report.Tell(status);   // each time: says something when it changed
#ifndef IOVAD_CLIENT_QEMU_TROUBLE_REPORT_H_
#define IOVAD_CLIENT_QEMU_TROUBLE_REPORT_H_

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace iovad::qemu {

// "iovad-qemu-plugin: TEXT" as one line, whatever is in the text.
void Say(std::string_view text);

class TroubleReport {
 public:
  // `subject` begins each line.
  explicit TroubleReport(std::string subject) : subject_(std::move(subject)) {}

  // How it is now.
  void Tell(const absl::Status& status);

 private:
  const std::string subject_;
  absl::Status last_;
};

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_TROUBLE_REPORT_H_
