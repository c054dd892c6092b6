// A program of somebody else's: the API's messages, the core's types and the
// client library. Nobody serves at the address.
#include <cstdio>

#include "client/client.h"
#include "client/mirror/mirror.h"
#include "core/types.h"
#include "iovad/v1/address_space.grpc.pb.h"

int main() {
  iovad::v1::MapRequest request;
  request.mutable_mapping()->set_size(0x2000);
  const auto range = iovad::IovaRange::FromSize(iovad::Iova(0x1000), request.mapping().size());
  const auto client = iovad::Client::Connect("consumer.sock");
  const absl::Status status =
      client->OpenSpace("vm1", "", {.timeout = absl::Milliseconds(50)}).status();
  std::printf("%s: %s\n", request.ShortDebugString().c_str(), status.ToString().c_str());
  return range->last() == iovad::Iova(0x2fff) && absl::IsUnavailable(status) ? 0 : 1;
}
