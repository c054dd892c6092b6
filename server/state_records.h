// The records of the store that are messages (state.proto), from and to core types.
#ifndef IOVAD_SERVER_STATE_RECORDS_H_
#define IOVAD_SERVER_STATE_RECORDS_H_

#include <optional>

#include "absl/time/time.h"
#include "core/address_space.h"
#include "core/memory_map.h"
#include "core/request_log.h"
#include "server/state.pb.h"

namespace iovad {

namespace record = iovad::state::v1;

void Write(const Svq& svq, record::SvqRecord& out);
void Write(const RegisteredMemory& memory, record::MemoryRecord& out);

// Nothing for what cannot have been written by this code.
std::optional<Mapping> ReadMapping(const ::iovad::v1::Mapping& mapping);
std::optional<Svq> ReadSvq(const record::SvqRecord& in);
// Without its id and its file.
std::optional<RegisteredMemory> ReadMemory(const record::MemoryRecord& memory);
std::optional<SpaceOptions> ReadSpaceOptions(const ::iovad::v1::Space& space);

inline int64_t ToRecord(absl::Time time) { return absl::ToUnixNanos(time); }
inline absl::Time FromRecord(int64_t unix_ns) { return absl::FromUnixNanos(unix_ns); }

}  // namespace iovad

#endif  // IOVAD_SERVER_STATE_RECORDS_H_
