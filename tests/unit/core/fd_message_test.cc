#include "core/fd_message.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>

#include "gtest/gtest.h"

namespace iovad {
namespace {

constexpr char kHandle[] = "0123456789abcdef0123456789abcdef";

std::string Padded(std::string text, size_t size) {
  text.resize(size);
  return text;
}

std::string Zeros(size_t size) { return std::string(size, '\0'); }

// `bytes` with `changed` in the place of what is at `at`.
std::string With(std::string bytes, size_t at, const std::string& changed) {
  std::copy(changed.begin(), changed.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
  return bytes;
}

// The layout by hand, as server/fd_socket.md has it.
TEST(FdMessage, TheBytesAreTheDocumentedOnes) {
  EXPECT_EQ(FormatFdRequest(
                {.operation = FdOperation::kDeposit, .kind = FdKind::kEventfd, .name = "kick"}),
            std::string("IOFD\1\1\3\0", 8) + std::string(32, '\0') + Padded("kick", 64));
  EXPECT_EQ(FormatFdRequest({.operation = FdOperation::kWithdraw, .handle = kHandle}),
            std::string("IOFD\1\2\0\0", 8) + kHandle + std::string(64, '\0'));
  EXPECT_EQ(FormatFdRequest({.operation = FdOperation::kAttest}),
            Padded(std::string("IOFD\1\3"), kFdRequestSize));
  EXPECT_EQ(
      FormatFdAnswer(
          {.operation = FdOperation::kAttest, .pid = 0x01020304, .uid = 1000, .handle = kHandle}),
      Padded(std::string("IOFD\1\3\0\0\0\0\0\0\4\3\2\1\xe8\3\0\0\0\0\0\0", 24) + kHandle,
             kFdAnswerSize));
  EXPECT_EQ(FormatFdAnswer({.operation = FdOperation::kWithdraw,
                            .reason = Reason::kHandleNotFound,
                            .kind = FdKind::kMemory,
                            .name = "ram",
                            .text = "gone"}),
            std::string("IOFD\1\2\1\0\xce\0\0\0", 12) + std::string(12 + 32, '\0') +
                Padded("ram", 64) + Padded("gone", 128));
}

TEST(FdMessage, WhatIsWrittenIsReadBack) {
  const FdRequest requests[] = {
      {.operation = FdOperation::kDeposit, .kind = FdKind::kMemory, .name = std::string(64, 'x')},
      {.operation = FdOperation::kDeposit, .kind = FdKind::kDevice, .name = "Gäste"},
      {.operation = FdOperation::kWithdraw, .handle = kHandle},
      {.operation = FdOperation::kAttest},
  };
  for (const FdRequest& request : requests) {
    const absl::StatusOr<FdRequest> read = ParseFdRequest(FormatFdRequest(request));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, request);
  }
  const FdAnswer answer = {.operation = FdOperation::kWithdraw,
                           .reason = Reason::kDraining,
                           .kind = FdKind::kEventfd,
                           .pid = 0xffffffff,
                           .uid = 0x80000000,
                           .handle = kHandle,
                           .name = std::string(64, 'n'),
                           .text = std::string(128, 't')};
  const absl::StatusOr<FdAnswer> read = ParseFdAnswer(FormatFdAnswer(answer));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, answer);
}

TEST(FdMessage, TooLongTextIsCutBetweenCharacters) {
  const absl::StatusOr<FdAnswer> read =
      ParseFdAnswer(FormatFdAnswer({.text = std::string(127, 'x') + "ä" + "y"}));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->text, std::string(127, 'x'));
}

TEST(FdMessage, RefusesWhatIsNoRequest) {
  const std::string deposit =
      FormatFdRequest({.operation = FdOperation::kDeposit, .kind = FdKind::kMemory, .name = "n"});
  const std::string withdraw =
      FormatFdRequest({.operation = FdOperation::kWithdraw, .handle = kHandle});
  const std::string attest = FormatFdRequest({.operation = FdOperation::kAttest});
  const struct {
    std::string bytes;
    Reason reason;
    const char* text;
  } cases[] = {
      {"", Reason::kInvalidValue, "no message of the protocol"},
      {"IOF", Reason::kInvalidValue, "no message of the protocol"},
      {"GET / HTTP/1.1\r\n\r\n", Reason::kInvalidValue, "no message of the protocol"},
      {std::string(kFdRequestSize, '\xff'), Reason::kInvalidValue, "no message of the protocol"},
      {"IOFD", Reason::kInvalidValue, "a message of 4 bytes where 104 belong"},
      {deposit.substr(0, 103), Reason::kInvalidValue, "a message of 103 bytes"},
      {deposit + '\0', Reason::kInvalidValue, "a message of 105 bytes"},
      {std::string("IOFD\2", 5), Reason::kInvalidValue, "version 2 is not known, only 1 is"},
      {With(deposit, 5, Zeros(1)), Reason::kInvalidValue, "unknown operation 0"},
      {With(deposit, 5, "\4"), Reason::kInvalidValue, "unknown operation 4"},
      {With(deposit, 6, Zeros(1)), Reason::kInvalidValue, "the kind must be"},
      {With(deposit, 6, "\4"), Reason::kInvalidValue, "unknown kind 4"},
      {With(deposit, 7, "\1"), Reason::kInvalidValue, "must be zero"},
      {With(deposit, 8, "0"), Reason::kInvalidValue, "only a withdrawal"},
      {With(deposit, 103, "x"), Reason::kInvalidValue, "after its end"},
      {With(deposit, 40, "\n"), Reason::kInvalidLabel, "control characters"},
      {With(deposit, 40, "\xff"), Reason::kInvalidLabel, "UTF-8"},
      {With(withdraw, 6, "\1"), Reason::kInvalidValue, "only a deposit"},
      {With(withdraw, 8, Zeros(32)), Reason::kMissingField, "is missing"},
      {With(withdraw, 8, "A"), Reason::kInvalidValue, "lower-case"},
      {With(withdraw, 39, Zeros(1)), Reason::kInvalidValue, "32 digits"},
      {With(attest, 6, "\1"), Reason::kInvalidValue, "only a deposit"},
      {With(attest, 40, "n"), Reason::kInvalidValue, "only a deposit"},
      {With(attest, 8, kHandle), Reason::kInvalidValue, "only a withdrawal"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ParseFdRequest(c.bytes).status();
    EXPECT_EQ(ReasonOf(status), c.reason) << status << " for " << c.text;
    EXPECT_NE(status.message().find(c.text), absl::string_view::npos) << status << c.text;
  }
}

TEST(FdMessage, RefusesWhatIsNoAnswer) {
  const std::string answer = FormatFdAnswer({.operation = FdOperation::kAttest});
  for (const std::string& bytes :
       {std::string(), answer.substr(1), answer + "x", With(answer, 4, "\2"), With(answer, 7, "x"),
        With(answer, 23, "x"), With(answer, 24, "0"), With(answer, 247, "x")}) {
    EXPECT_FALSE(ParseFdAnswer(bytes).ok()) << bytes;
  }
}

TEST(FdMessage, KindsHaveNames) {
  for (const FdKind kind : {FdKind::kMemory, FdKind::kDevice, FdKind::kEventfd}) {
    EXPECT_EQ(FdKindOf(FdKindName(kind)), kind);
  }
  EXPECT_EQ(FdKindName(FdKind::kNone), "none");
  EXPECT_EQ(FdKindOf("none"), std::nullopt);
  EXPECT_EQ(FdKindOf("Memory"), std::nullopt);
}

}  // namespace
}  // namespace iovad
