#include "server/call.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message_lite.h>
#include <openssl/sha.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "server/state_records.h"

namespace iovad {
namespace {

constexpr size_t kMaxRequestId = 64;

// Of UTF-8, as every string that protobuf lets through is.
size_t Characters(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

std::string Digest(const char* method, const google::protobuf::MessageLite& request) {
  const std::string content = absl::StrCat(method, "\n", StableBytes(request));
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(content.data()), content.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

}  // namespace

absl::Status DrainingStatus() {
  return MakeError({.reason = Reason::kDraining},
                   "the server is shutting down; try again when it is back");
}

std::string StableBytes(const google::protobuf::MessageLite& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

Repeats::Repeats(RequestLog& log, const std::string& id, const char* method,
                 const google::protobuf::MessageLite& request,
                 google::protobuf::MessageLite& response, const std::string& what)
    : log_(log) {
  if (id.empty()) return;
  if (Characters(id) > kMaxRequestId) {
    status_ =
        MakeError({.reason = Reason::kInvalidValue, .limit = kMaxRequestId},
                  absl::StrCat(what, "a request_id has at most ", kMaxRequestId, " characters"));
    return;
  }
  digest_ = Digest(method, request);
  const RequestLog::Claim claim = log_.Begin(id, digest_, absl::Now());
  using Found = RequestLog::Claim::State;
  switch (claim.state) {
    case Found::kNew:
      id_ = id;
      break;
    case Found::kRunning:
      status_ = MakeError(
          {.reason = Reason::kRequestInFlight},
          absl::StrCat(what, "request '", id, "' is still running; ask again for its answer"));
      break;
    case Found::kReused:
      status_ = MakeError(
          {.reason = Reason::kRequestIdReused},
          absl::StrCat(what, "request_id '", id, "' was used for another request; take a new one"));
      break;
    case Found::kAnswered:
      replayed_ = true;
      response.ParseFromString(*claim.answer);
      break;
  }
}

uint64_t Repeats::Keep(store::SpaceNumber space, const google::protobuf::MessageLite& response,
                       store::WriteBatch& batch) {
  if (id_.empty()) return 0;
  const uint64_t sequence = log_.NextSequence(id_);
  record::RequestRecord out;
  out.set_id(id_);
  out.set_digest(digest_);
  out.set_answer(StableBytes(response));
  out.set_time_unix_ns(ToRecord(absl::Now()));
  batch.PutRequest(space, sequence, out.SerializeAsString());
  batch.DropRequestsBefore(space, log_.OldestSequence());
  return sequence;
}

void Repeats::End(const absl::Status& status, const google::protobuf::MessageLite& response) {
  if (id_.empty()) return;
  if (status.ok()) {
    log_.Record(id_, StableBytes(response), absl::Now());
  } else {
    log_.Forget(id_);
  }
  id_.clear();
}

}  // namespace iovad
