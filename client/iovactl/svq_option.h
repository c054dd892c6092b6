// The text that describes one shadow virtqueue: INDEX,KEY=VALUE,…
//
// Example:
//   ParseSvq("0,size=256,driver=0x7f0000000000,device=0x7f0000002000");
//   ParseSvq("2,size=64,control,driver=…,device=…,out=…,in=…");
//   ParseSvq("0,size=256,format=packed,desc=…,driver=…,device=…");
#ifndef IOVAD_CLIENT_IOVACTL_SVQ_OPTION_H_
#define IOVAD_CLIENT_IOVACTL_SVQ_OPTION_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad::ctl {

// INVALID_ARGUMENT for what is not of that form, for a key that is unknown or
// given twice, and without a size. Which addresses are needed is the server's to
// say.
absl::StatusOr<v1::SvqSpec> ParseSvq(std::string_view text);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_SVQ_OPTION_H_
