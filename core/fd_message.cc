#include "core/fd_message.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "core/name.h"

namespace iovad {
namespace {

constexpr std::string_view kMagic = "IOFD";

// Where what begins. Both messages begin alike.
constexpr size_t kVersionAt = 4;
constexpr size_t kOperationAt = 5;
constexpr size_t kKindAt = 6;
constexpr size_t kZeroAt = 7;

constexpr size_t kRequestHandleAt = 8;
constexpr size_t kRequestNameAt = kRequestHandleAt + kFdHandleSize;
static_assert(kRequestNameAt + kFdNameSize == kFdRequestSize);

constexpr size_t kReasonAt = 8;
constexpr size_t kPidAt = 12;
constexpr size_t kUidAt = 16;
constexpr size_t kAnswerZeroAt = 20;
constexpr size_t kAnswerHandleAt = 24;
constexpr size_t kAnswerNameAt = kAnswerHandleAt + kFdHandleSize;
constexpr size_t kAnswerTextAt = kAnswerNameAt + kFdNameSize;
static_assert(kAnswerTextAt + kFdTextSize == kFdAnswerSize);

struct KindName {
  FdKind kind;
  std::string_view name;
};
constexpr std::array<KindName, 3> kKindNames = {{
    {FdKind::kMemory, "memory"},
    {FdKind::kDevice, "device"},
    {FdKind::kEventfd, "eventfd"},
}};

absl::Status Refuse(std::string_view what) {
  return MakeError({.reason = Reason::kInvalidValue},
                   absl::StrCat("fd socket: ", std::string(what)));
}

uint8_t ByteAt(std::string_view bytes, size_t at) { return static_cast<uint8_t>(bytes[at]); }

uint32_t NumberAt(std::string_view bytes, size_t at) {
  uint32_t number = 0;
  for (size_t i = 0; i < sizeof(number); ++i) {
    number |= static_cast<uint32_t>(ByteAt(bytes, at + i)) << (8 * i);
  }
  return number;
}

void PutNumber(uint32_t number, size_t at, std::string& bytes) {
  for (size_t i = 0; i < sizeof(number); ++i) {
    bytes[at + i] = static_cast<char>(number >> (8 * i) & 0xff);
  }
}

// The text of a field: what is in front of its zeros. Nothing when anything but
// zeros follows the first.
std::optional<std::string> TextAt(std::string_view bytes, size_t at, size_t size) {
  const std::string_view field = bytes.substr(at, size);
  const size_t length = std::min(field.find('\0'), field.size());
  if (field.find_first_not_of('\0', length) != std::string_view::npos) return std::nullopt;
  return std::string(field.substr(0, length));
}

void PutText(std::string_view text, size_t at, size_t size, std::string& bytes) {
  size_t length = std::min(text.size(), size);
  // Not within a character of UTF-8, whose further bytes are 10xxxxxx.
  while (length < text.size() && length > 0 && (ByteAt(text, length) & 0xc0) == 0x80) --length;
  std::copy_n(text.begin(), length, bytes.begin() + static_cast<std::ptrdiff_t>(at));
}

std::string Begin(size_t size, FdOperation operation, FdKind kind) {
  std::string bytes(size, '\0');
  std::copy(kMagic.begin(), kMagic.end(), bytes.begin());
  bytes[kVersionAt] = static_cast<char>(kFdVersion);
  bytes[kOperationAt] = static_cast<char>(operation);
  bytes[kKindAt] = static_cast<char>(kind);
  return bytes;
}

// What requests and answers have in common.
absl::Status CheckBegin(std::string_view bytes, size_t size) {
  if (bytes.size() < kMagic.size() || bytes.substr(0, kMagic.size()) != kMagic) {
    return Refuse("this is no message of the protocol");
  }
  // Before the size, which another version may have changed.
  if (bytes.size() > kVersionAt && ByteAt(bytes, kVersionAt) != kFdVersion) {
    return Refuse(absl::StrCat("version ", ByteAt(bytes, kVersionAt), " is not known, only ",
                               kFdVersion, " is"));
  }
  if (bytes.size() != size) {
    return Refuse(absl::StrCat("a message of ", bytes.size(), " bytes where ", size, " belong"));
  }
  if (ByteAt(bytes, kOperationAt) > static_cast<uint8_t>(FdOperation::kAttest)) {
    return Refuse(absl::StrCat("unknown operation ", ByteAt(bytes, kOperationAt)));
  }
  if (ByteAt(bytes, kKindAt) > static_cast<uint8_t>(FdKind::kEventfd)) {
    return Refuse(absl::StrCat("unknown kind ", ByteAt(bytes, kKindAt)));
  }
  if (ByteAt(bytes, kZeroAt) != 0) return Refuse("a byte that must be zero is not");
  return absl::OkStatus();
}

// Refuses what an operation has no use for, and wants what it needs.
absl::Status CheckFields(const FdRequest& request) {
  const bool deposit = request.operation == FdOperation::kDeposit;
  const bool withdraw = request.operation == FdOperation::kWithdraw;
  if (request.operation == FdOperation::kNone) return Refuse("unknown operation 0");
  if (deposit == (request.kind == FdKind::kNone)) {
    return Refuse(deposit ? "the kind must be memory, device or eventfd"
                          : "only a deposit has a kind");
  }
  if (!deposit && !request.name.empty()) return Refuse("only a deposit has a name");
  if (!withdraw && !request.handle.empty()) return Refuse("only a withdrawal has a handle");
  if (withdraw && request.handle.empty()) {
    return MakeError({.reason = Reason::kMissingField}, "fd socket: the handle is missing");
  }
  if (withdraw && !IsFdHandle(request.handle)) {
    return Refuse("a handle is 32 digits of lower-case hexadecimal");
  }
  if (!IsValidLabel(request.name)) {
    return MakeError({.reason = Reason::kInvalidLabel},
                     "fd socket: the name must be UTF-8 without control characters");
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view FdKindName(FdKind kind) {
  for (const KindName& known : kKindNames) {
    if (known.kind == kind) return known.name;
  }
  return "none";
}

std::optional<FdKind> FdKindOf(std::string_view name) {
  for (const KindName& known : kKindNames) {
    if (known.name == name) return known.kind;
  }
  return std::nullopt;
}

bool IsFdHandle(std::string_view handle) {
  return handle.size() == kFdHandleSize &&
         handle.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

absl::StatusOr<FdRequest> ParseFdRequest(std::string_view bytes) {
  if (absl::Status status = CheckBegin(bytes, kFdRequestSize); !status.ok()) return status;
  std::optional<std::string> handle = TextAt(bytes, kRequestHandleAt, kFdHandleSize);
  std::optional<std::string> name = TextAt(bytes, kRequestNameAt, kFdNameSize);
  if (!handle || !name) return Refuse("a text goes on after its end");
  FdRequest request = {.operation = static_cast<FdOperation>(ByteAt(bytes, kOperationAt)),
                       .kind = static_cast<FdKind>(ByteAt(bytes, kKindAt)),
                       .handle = *std::move(handle),
                       .name = *std::move(name)};
  if (absl::Status status = CheckFields(request); !status.ok()) return status;
  return request;
}

absl::StatusOr<FdAnswer> ParseFdAnswer(std::string_view bytes) {
  if (absl::Status status = CheckBegin(bytes, kFdAnswerSize); !status.ok()) return status;
  if (NumberAt(bytes, kAnswerZeroAt) != 0) return Refuse("a byte that must be zero is not");
  std::optional<std::string> handle = TextAt(bytes, kAnswerHandleAt, kFdHandleSize);
  std::optional<std::string> name = TextAt(bytes, kAnswerNameAt, kFdNameSize);
  std::optional<std::string> text = TextAt(bytes, kAnswerTextAt, kFdTextSize);
  if (!handle || !name || !text) return Refuse("a text goes on after its end");
  if (!handle->empty() && !IsFdHandle(*handle)) return Refuse("the answer's handle is none");
  return FdAnswer{.operation = static_cast<FdOperation>(ByteAt(bytes, kOperationAt)),
                  .reason = static_cast<Reason>(NumberAt(bytes, kReasonAt)),
                  .kind = static_cast<FdKind>(ByteAt(bytes, kKindAt)),
                  .pid = NumberAt(bytes, kPidAt),
                  .uid = NumberAt(bytes, kUidAt),
                  .handle = *std::move(handle),
                  .name = *std::move(name),
                  .text = *std::move(text)};
}

std::string FormatFdRequest(const FdRequest& request) {
  std::string bytes = Begin(kFdRequestSize, request.operation, request.kind);
  PutText(request.handle, kRequestHandleAt, kFdHandleSize, bytes);
  PutText(request.name, kRequestNameAt, kFdNameSize, bytes);
  return bytes;
}

std::string FormatFdAnswer(const FdAnswer& answer) {
  std::string bytes = Begin(kFdAnswerSize, answer.operation, answer.kind);
  PutNumber(static_cast<uint32_t>(answer.reason), kReasonAt, bytes);
  PutNumber(answer.pid, kPidAt, bytes);
  PutNumber(answer.uid, kUidAt, bytes);
  PutText(answer.handle, kAnswerHandleAt, kFdHandleSize, bytes);
  PutText(answer.name, kAnswerNameAt, kFdNameSize, bytes);
  PutText(answer.text, kAnswerTextAt, kFdTextSize, bytes);
  return bytes;
}

}  // namespace iovad
