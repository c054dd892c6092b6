// The requests about registered memory, and the memory that the server makes
// itself for shadow virtqueues.
//
// Purpose. Gets hold of a client's memory by descriptor or by path, and checks
// all there is to check before it counts as registered. Its contents are never
// looked at.
//
// Thread safety. Free functions, from any thread.
#ifndef IOVAD_SERVER_MEMORY_REQUESTS_H_
#define IOVAD_SERVER_MEMORY_REQUESTS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/memory_map.h"
#include "iovad/v1/address_space.pb.h"
#include "server/server_context.h"
#include "server/space.h"

namespace iovad {

// What `fd_handle` or `path` names, to be registered. Checks come in this order, and
// a handle is used up by the last ones only:
//   EMPTY_RANGE, RANGE_WRAPS, UNALIGNED, INVALID_LABEL, MISSING_FIELD,
//   HOST_HVA_OVERLAP, MAPPING_LIMIT, PATH_NOT_ALLOWED, HANDLE_NOT_FOUND,
//   MEMORY_NOT_FOUND (no such file), MEMORY_UNSUITABLE.
absl::StatusOr<RegisteredMemory> FindMemory(ServerContext& context, const Space& space,
                                            const v1::RegisterMemoryRequest& request);

// A space's memory as clients see it.
void Write(const Space& space, const RegisteredMemory& memory, v1::Memory& out);

// All of a space's memory, by HVA.
void ListMemory(const Space& space, v1::ListMemoryResponse& response);

// Offers a copy of the memory's descriptor on the fd socket. MEMORY_NOT_FOUND,
// OVERLOADED.
absl::Status GetMemoryHandle(ServerContext& context, const Space& space,
                             const v1::GetMemoryHandleRequest& request,
                             v1::GetMemoryHandleResponse& response);

// Makes `size` bytes of memory, zeroed and sealed, and registers them with the
// space. IOVA-side nothing is mapped yet. MEMORY_UNSUITABLE when there is no memory
// to be had (os_errno).
absl::StatusOr<RegisteredMemory> MakeMemory(MappedFiles& files, Space& space, uint64_t size,
                                            std::string label);

// Maps the first `bytes` of a file by a path that is allowed. `where` begins messages.
absl::StatusOr<std::shared_ptr<const MappedFile>> MapMemoryPath(ServerContext& context,
                                                                const std::string& where,
                                                                const std::string& path,
                                                                uint64_t bytes);

}  // namespace iovad

#endif  // IOVAD_SERVER_MEMORY_REQUESTS_H_
