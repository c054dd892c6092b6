// Where an import's guest memory is, as it is said on the command line.
//
// Purpose. Reads "GPA-RANGE=HVA" and "GPA-RANGE=SOURCE[@OFFSET]", and turns them into
// an import's bindings and memories. Memory of a file needs HVAs, though no process has
// it at one: it gets such as no process can have, each file a stretch of its own, so
// that aliases by file are aliases by HVA.
//
// Thread safety. Free functions.
#ifndef IOVAD_CLIENT_IOVACTL_MEMORY_BINDING_H_
#define IOVAD_CLIENT_IOVACTL_MEMORY_BINDING_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/iovactl/fd_source.h"
#include "client/text/parse.h"
#include "iovad/v1/migration.pb.h"

namespace iovad::ctl {

struct HvaBinding {
  text::Bounds gpa;
  uint64_t hva = 0;
};
struct FileBinding {
  text::Bounds gpa;
  std::string source;  // PATH, "fd:N" or "server:PATH"
  uint64_t offset = 0;
};

absl::StatusOr<HvaBinding> ParseHvaBinding(std::string_view text);
absl::StatusOr<FileBinding> ParseFileBinding(std::string_view text);

// Adds bindings and memories to the header, and says where the descriptors of the
// memories come from that are to be deposited (the others, which the server opens, have
// an entry too). A usage error when a file's offsets go beyond 2^63.
absl::StatusOr<std::vector<FdSource>> AddBindings(const std::vector<HvaBinding>& hvas,
                                                  const std::vector<FileBinding>& files,
                                                  v1::ImportHeader* header);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_MEMORY_BINDING_H_
