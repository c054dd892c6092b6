// The streams of client/streams.h over a connection; not for programs.
//
// Thread safety. Free functions. The streams: see there.
#ifndef IOVAD_CLIENT_STREAMS_IMPL_H_
#define IOVAD_CLIENT_STREAMS_IMPL_H_

#include <memory>
#include <string>

#include "client/session.h"
#include "client/streams.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad::client {

std::unique_ptr<ChangeStream> WatchSpace(std::shared_ptr<Session> session,
                                         const v1::WatchRequest& request);
std::unique_ptr<SpacesStream> WatchSpaces(std::shared_ptr<Session> session);
// `start` is what each update begins with: the space, and which.
std::unique_ptr<UpdateStream> StreamUpdates(std::shared_ptr<Session> session,
                                            v1::UpdateRequest start);

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_STREAMS_IMPL_H_
