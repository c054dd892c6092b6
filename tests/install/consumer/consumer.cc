// A program of somebody else's: the API's messages, the core's types and the
// client library.
#include <cstdio>

#include "client/address.h"
#include "core/types.h"
#include "iovad/v1/address_space.grpc.pb.h"

int main() {
  iovad::v1::MapRequest request;
  request.mutable_mapping()->set_size(0x2000);
  const auto range = iovad::IovaRange::FromSize(iovad::Iova(0x1000), request.mapping().size());
  const auto target = iovad::client::TargetOf("/run/iovad/iovad.sock");
  std::printf("%s at %s\n", request.ShortDebugString().c_str(), target.value().c_str());
  return range.has_value() && range->last() == iovad::Iova(0x2fff) ? 0 : 1;
}
