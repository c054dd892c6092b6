#include <cstdio>

#include "core/types.h"
#include "iovad/v1/address_space.grpc.pb.h"

int main() {
  iovad::v1::MapRequest request;
  request.mutable_mapping()->set_size(0x2000);
  const auto range = iovad::IovaRange::FromSize(iovad::Iova(0x1000), request.mapping().size());
  std::printf("%s\n", request.ShortDebugString().c_str());
  return range.has_value() && range->last() == iovad::Iova(0x2fff) ? 0 : 1;
}
