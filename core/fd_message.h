// The messages of the fd socket.
//
// Purpose. File descriptors cannot travel in gRPC, so they have a socket of their
// own (Unix, SOCK_SEQPACKET). A request is one message, its answer another; the
// descriptor rides on one of them as SCM_RIGHTS. The layout on the wire, which
// other languages need, is in server/fd_socket.md.
//
// Thread safety. Free functions and values.
//
// Invariants.
//  1. What ParseRequest or ParseAnswer accepts, Format gives back byte for byte.
//  2. No message is accepted in part: a wrong size, an unknown number or a byte
//     that must be zero and is not refuses all of it.
//
// Example:
//   const std::string bytes = FormatFdRequest({.operation = FdOperation::kDeposit,
//                                              .kind = FdKind::kMemory, .name = "ram"});
//   send(fd, bytes.data(), bytes.size(), 0);  // with the descriptor beside it
#ifndef IOVAD_CORE_FD_MESSAGE_H_
#define IOVAD_CORE_FD_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/error.h"

namespace iovad {

// What a descriptor is for. The numbers are those of the wire.
enum class FdKind : uint8_t {
  kNone = 0,     // no descriptor: withdraw says nothing of kinds, attest has none
  kMemory = 1,   // shared memory, for RegisterMemory
  kDevice = 2,   // a vhost-vdpa device that nobody owns yet, for OpenDevice
  kEventfd = 3,  // a queue's kick or call, for StartDevice
};
// "memory", "device", "eventfd"; "none" for kNone and for a number that is none.
std::string_view FdKindName(FdKind kind);
// The reverse; nothing for other text, "none" included.
std::optional<FdKind> FdKindOf(std::string_view name);

enum class FdOperation : uint8_t {
  kNone = 0,      // only in answers to what could not be read
  kDeposit = 1,   // a descriptor in, a handle out
  kWithdraw = 2,  // a handle in, its descriptor out
  kAttest = 3,    // a handle for the process that connected
};

inline constexpr uint8_t kFdVersion = 1;
inline constexpr size_t kFdRequestSize = 104;
inline constexpr size_t kFdAnswerSize = 248;
// A handle: 128 random bits in lower-case hexadecimal.
inline constexpr size_t kFdHandleSize = 32;
// Bytes of UTF-8, at most.
inline constexpr size_t kFdNameSize = 64;
inline constexpr size_t kFdTextSize = 128;

struct FdRequest {
  FdOperation operation = FdOperation::kNone;
  FdKind kind = FdKind::kNone;  // deposit
  std::string handle = {};      // withdraw
  std::string name = {};        // deposit: what people call it; may be empty
  friend bool operator==(const FdRequest&, const FdRequest&) = default;
};

struct FdAnswer {
  FdOperation operation = FdOperation::kNone;  // of the request
  Reason reason = Reason::kUnspecified;        // kUnspecified: it was done
  FdKind kind = FdKind::kNone;                 // withdraw
  uint32_t pid = 0;                            // attest: who is attested
  uint32_t uid = 0;
  std::string handle = {};  // deposit, attest
  std::string name = {};    // withdraw
  std::string text = {};    // for people: why it was refused
  friend bool operator==(const FdAnswer&, const FdAnswer&) = default;
};

// Whether `handle` has the form of a handle.
bool IsFdHandle(std::string_view handle);

// INVALID_VALUE: no such message (see invariant 2); the text says what is wrong.
// INVALID_LABEL: the name is no label (core/name.h). MISSING_FIELD: no handle
// where one is needed.
absl::StatusOr<FdRequest> ParseFdRequest(std::string_view bytes);
absl::StatusOr<FdAnswer> ParseFdAnswer(std::string_view bytes);

// Always kFdRequestSize and kFdAnswerSize bytes. Text that is too long is cut,
// at the end of a character.
std::string FormatFdRequest(const FdRequest& request);
std::string FormatFdAnswer(const FdAnswer& answer);

}  // namespace iovad

#endif  // IOVAD_CORE_FD_MESSAGE_H_
