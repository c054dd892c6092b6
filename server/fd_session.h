// One message of the fd socket and its answer.
//
// Purpose. What the protocol means, apart from how connections come and go
// (fd_socket.h). The wire format is core/fd_message.h.
//
// Thread safety. A free function; callable from any thread.
//
// Invariants.
//  1. Every message is answered. A descriptor that came with it is in the store or
//     closed when the answer is there.
#ifndef IOVAD_SERVER_FD_SESSION_H_
#define IOVAD_SERVER_FD_SESSION_H_

#include "core/fd_message.h"
#include "core/fd_transfer.h"
#include "core/unique_fd.h"
#include "server/handle_store.h"
#include "server/peer.h"

namespace iovad {

struct FdReply {
  FdAnswer answer;
  UniqueFd fd = {};  // goes with it: withdraw
};

// Does what `message`, which came from `peer`, asks of `store`. While `draining`,
// only withdrawals are served: they belong to answers that are out already.
FdReply AnswerFdMessage(ReceivedMessage message, const Peer& peer, bool draining,
                        HandleStore& store);

}  // namespace iovad

#endif  // IOVAD_SERVER_FD_SESSION_H_
