// What the handles of iovad.h are; not for programs.
//
// Thread safety. As of what is in them.
#ifndef IOVAD_CLIENT_C_HANDLES_H_
#define IOVAD_CLIENT_C_HANDLES_H_

#include <memory>

#include "client/client.h"
#include "client/mirror/mirror.h"
#include "client/space_handle.h"

struct iovad_client {
  iovad::Client client;
};

struct iovad_space {
  iovad::Client client;
  iovad::SpaceHandle space;
};

struct iovad_mirror {
  std::unique_ptr<iovad::Mirror> mirror;
};

#endif  // IOVAD_CLIENT_C_HANDLES_H_
