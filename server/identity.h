// Who may do what: the one place where that is decided.
//
// Every RPC asks here before it does anything. Today whoever may open the socket
// may do everything: its mode and group are the access control. Roles by peer
// credentials have their place here, and the services need not change for them.
#ifndef IOVAD_SERVER_IDENTITY_H_
#define IOVAD_SERVER_IDENTITY_H_

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "server/space_owner.h"

namespace iovad {

enum class Role {
  kViewer,    // reads
  kOperator,  // changes spaces
  kAdmin,     // everything
};

// ROLE_REQUIRED or NO_IDENTITY when the caller has not earned `needed`.
inline absl::Status Authorize(const grpc::ServerContextBase& /*context*/, Role /*needed*/) {
  return absl::OkStatus();
}

// NOT_OWNER when the caller is neither the owner of a space (null: it is nobody's) nor
// an admin: asked before a space is given to somebody else.
inline absl::Status AuthorizeTransfer(const grpc::ServerContextBase& /*context*/,
                                      const SpaceOwner* /*owner*/) {
  return absl::OkStatus();
}

}  // namespace iovad

#endif  // IOVAD_SERVER_IDENTITY_H_
