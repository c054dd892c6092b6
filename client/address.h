// Where an iovad listens: a Unix socket, or TCP on loopback.
//
// Purpose. Turns what people write into what gRPC connects to:
//   /run/iovad/iovad.sock, run/iovad.sock   a Unix socket's path
//   unix:PATH, unix:///PATH                 the same, as gRPC writes it
//   127.0.0.1:7000, [::1]:7000, localhost:7000   TCP, loopback only
// What has a slash, or no colon, is a path.
//
// Thread safety. A free function.
#ifndef IOVAD_CLIENT_ADDRESS_H_
#define IOVAD_CLIENT_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace iovad::client {

// gRPC's name of the target ("unix:/run/iovad/iovad.sock", "ipv4:127.0.0.1:7000").
// INVALID_ARGUMENT when `address` is empty, when a path is longer than a Unix
// socket's may be (107 bytes: sys/un.h), and for TCP that is not loopback: the
// connection is neither encrypted nor authenticated.
absl::StatusOr<std::string> TargetOf(std::string_view address);

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_ADDRESS_H_
