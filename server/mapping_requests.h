// The requests that change mappings, as changes that a space's writer plans.
//
// Purpose. One class for each of Map, Unmap, Update, AllocSVQ and FreeSVQ, all
// the same but for parsing, planning and the answer; unary calls and streams use
// them alike.
#ifndef IOVAD_SERVER_MAPPING_REQUESTS_H_
#define IOVAD_SERVER_MAPPING_REQUESTS_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "iovad/v1/address_space.pb.h"
#include "server/registry.h"
#include "server/server_context.h"

namespace iovad {

// Called once, on any thread, when the response is complete or there is none.
using Answer = std::function<void(const absl::Status&)>;

// Each finds the space, serves repeats, and submits the change. Request and
// response outlive the answer. Errors as address_space.proto says.
void SubmitMap(const Registry& registry, const v1::MapRequest& request, v1::MapResponse& response,
               Answer answer);
void SubmitUnmap(const Registry& registry, const v1::UnmapRequest& request,
                 v1::UnmapResponse& response, Answer answer);
void SubmitUpdate(const Registry& registry, const v1::UpdateRequest& request,
                  v1::UpdateResponse& response, Answer answer);
// Makes the memory of queues that come without addresses (memory_requests.h).
void SubmitAllocSvq(ServerContext& context, const v1::AllocSVQRequest& request,
                    v1::AllocSVQResponse& response, Answer answer);
void SubmitFreeSvq(const Registry& registry, const v1::FreeSVQRequest& request,
                   v1::FreeSVQResponse& response, Answer answer);

}  // namespace iovad

#endif  // IOVAD_SERVER_MAPPING_REQUESTS_H_
