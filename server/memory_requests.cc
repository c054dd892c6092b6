#include "server/memory_requests.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/error.h"
#include "core/format.h"
#include "core/name.h"
#include "server/convert.h"

namespace iovad {
namespace {

// Whether `path`, absolute and without "." and "..", is one of the allowed ones or
// below one.
bool IsAllowed(const std::string& path, const std::string& allowed_paths) {
  for (const absl::string_view allowed : absl::StrSplit(allowed_paths, ':', absl::SkipEmpty())) {
    const std::string folder(absl::StripSuffix(allowed, "/"));
    if (path == folder || path.rfind(folder + "/", 0) == 0) return true;
  }
  return false;
}

absl::Status NotAllowed(const std::string& where, const std::string& path,
                        const std::string& allowed) {
  return MakeError(
      {.reason = Reason::kPathNotAllowed},
      absl::StrCat(where, "memory may not be registered from '", path, "'; ",
                   allowed.empty() ? "no path is allowed" : absl::StrCat("allowed is ", allowed),
                   " (memory-paths), or send a descriptor through the fd socket"));
}

// Opens a file for memory, for reading only where writing is not allowed.
absl::StatusOr<UniqueFd> OpenAllowed(const std::string& where, const std::string& path,
                                     const std::string& allowed) {
  if (std::filesystem::path(path).lexically_normal() != path || path.empty() ||
      path.front() != '/' || !IsAllowed(path, allowed)) {
    return NotAllowed(where, path, allowed);
  }
  // O_NONBLOCK: a FIFO must not make the server wait.
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  UniqueFd fd(open(path.c_str(), O_RDWR | kFlags));
  if (!fd && (errno == EACCES || errno == EROFS))
    fd = UniqueFd(open(path.c_str(), O_RDONLY | kFlags));
  if (!fd) {
    const int refused = errno;
    const bool missing = refused == ENOENT || refused == ENOTDIR;
    return MakeError({.reason = missing ? Reason::kMemoryNotFound : Reason::kMemoryUnsuitable,
                      .os_errno = refused},
                     absl::StrCat(where, "cannot open '", path, "': ", std::strerror(refused)));
  }
  // Links may have led elsewhere.
  std::error_code error;
  const std::string real =
      std::filesystem::read_symlink(absl::StrCat("/proc/self/fd/", fd.get()), error).string();
  if (error || !IsAllowed(real, allowed)) return NotAllowed(where, path, allowed);
  return fd;
}

// Where the client has the memory. EMPTY_RANGE, RANGE_WRAPS, UNALIGNED,
// INVALID_LABEL, MISSING_FIELD.
absl::StatusOr<HvaRange> ParseShape(const Space& space, const v1::RegisterMemoryRequest& request) {
  const auto refuse = [&](Reason reason, const std::string& what) {
    return MakeError({.reason = reason}, absl::StrCat(space.prefix(), what));
  };
  if (request.size() == 0) return refuse(Reason::kEmptyRange, "size is 0");
  const std::optional<HvaRange> client = HvaRange::FromSize(Hva(request.hva()), request.size());
  if (!client.has_value() || request.offset() > kMaxAddress - request.size()) {
    return refuse(Reason::kRangeWraps,
                  absl::StrCat(client.has_value() ? "offset" : "hva", " plus size ",
                               Hex(request.size()), " goes beyond 2^64 - 1"));
  }
  const uint64_t page =
      space.Read([](const AddressSpace& core) { return core.options().page_size; });
  if ((request.hva() | request.size() | request.offset()) % page != 0) {
    return refuse(Reason::kUnaligned,
                  absl::StrCat("hva, size and offset are not all multiples of the space's page "
                               "size ",
                               Hex(page)));
  }
  if (!IsValidLabel(request.label())) {
    return refuse(Reason::kInvalidLabel,
                  "a label has at most 64 characters of UTF-8 and no control characters");
  }
  const bool given = request.source_case() == v1::RegisterMemoryRequest::kPath
                         ? !request.path().empty()
                         : !request.fd_handle().empty();
  if (!given) return refuse(Reason::kMissingField, "fd_handle or path is missing");
  return *client;
}

}  // namespace

void Write(const Space& space, const RegisteredMemory& memory, v1::Memory& out) {
  out.set_memory_id(memory.id.value());
  out.set_hva(memory.client.first().value());
  out.set_size(memory.client.size());
  out.set_offset(memory.offset);
  out.set_path(memory.path);
  out.set_state(memory.file != nullptr ? v1::MEMORY_STATE_READY : v1::MEMORY_STATE_MISSING);
  out.set_label(memory.label);
  out.set_mapping_count(space.CountMappings(memory.client));
}

absl::StatusOr<RegisteredMemory> FindMemory(ServerContext& context, const Space& space,
                                            const v1::RegisterMemoryRequest& request) {
  const absl::StatusOr<HvaRange> client = ParseShape(space, request);
  if (!client.ok()) return client.status();
  if (absl::Status s = space.CheckNewMemory(*client); !s.ok()) return s;
  const bool by_path = request.source_case() == v1::RegisterMemoryRequest::kPath;
  absl::StatusOr<UniqueFd> fd =
      by_path ? OpenAllowed(space.prefix(), request.path(), context.config.memory_paths)
              : context.handles.Claim(request.fd_handle(), FdKind::kMemory);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<std::shared_ptr<const MappedFile>> file =
      context.mapped_files.Map(*std::move(fd), request.offset() + request.size(),
                               absl::StrCat(space.prefix(), "memory at HVA ", Hex(*client)));
  if (!file.ok()) return file.status();
  // A path leads there again.
  FdStore::Hold kept = by_path ? nullptr : context.state.fds().KeepMemory(**file);
  return RegisteredMemory{.client = *client,
                          .offset = request.offset(),
                          .file = *std::move(file),
                          .path = by_path ? request.path() : "",
                          .label = request.label(),
                          .kept = std::move(kept)};
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MapMemoryPath(ServerContext& context,
                                                                const std::string& where,
                                                                const std::string& path,
                                                                uint64_t bytes) {
  absl::StatusOr<UniqueFd> fd = OpenAllowed(where, path, context.config.memory_paths);
  if (!fd.ok()) return fd.status();
  return context.mapped_files.Map(*std::move(fd), bytes, absl::StrCat(where, "memory at ", path));
}

void ListMemory(const Space& space, v1::ListMemoryResponse& response) {
  space.memory()->ForEach(
      [&](const RegisteredMemory& memory) { Write(space, memory, *response.add_memory()); });
}

absl::Status GetMemoryHandle(ServerContext& context, const Space& space,
                             const v1::GetMemoryHandleRequest& request,
                             v1::GetMemoryHandleResponse& response) {
  const std::shared_ptr<const MemoryMap> map = space.memory();
  const RegisteredMemory* memory = map->FindById(MemoryId(request.memory_id()));
  if (memory == nullptr) {
    return MakeError({.reason = Reason::kMemoryNotFound},
                     absl::StrCat(space.prefix(), "there is no memory ", request.memory_id(),
                                  "; ListMemory shows those there are"));
  }
  if (memory->file == nullptr) {
    return MakeError({.reason = Reason::kMemoryUnsuitable},
                     absl::StrCat(space.prefix(), "memory ", memory->id.value(),
                                  " is missing since iovad was started again; register it again"));
  }
  UniqueFd copy(fcntl(memory->file->fd().get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) {
    return MakeError({.reason = Reason::kOverloaded, .os_errno = errno},
                     absl::StrCat(space.prefix(), "memory ", memory->id.value(),
                                  ": no descriptor to be had: ", std::strerror(errno)));
  }
  absl::StatusOr<std::string> handle = context.handles.Offer(
      FdKind::kMemory, absl::StrCat(space.prefix(), "memory ", memory->id.value()),
      std::move(copy));
  if (!handle.ok()) return handle.status();
  response.set_fd_handle(*std::move(handle));
  return absl::OkStatus();
}

absl::StatusOr<RegisteredMemory> MakeMemory(MappedFiles& files, Space& space, uint64_t size,
                                            std::string label) {
  UniqueFd fd(memfd_create("iovad", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int refused = errno;
    return MakeError({.reason = Reason::kMemoryUnsuitable, .os_errno = refused},
                     absl::StrCat(space.prefix(), "no memory to be had for ", Hex(size),
                                  " bytes: ", std::strerror(refused)));
  }
  absl::StatusOr<std::shared_ptr<const MappedFile>> file =
      files.Map(std::move(fd), size, absl::StrCat(space.prefix(), label));
  if (!file.ok()) return file.status();
  FdStore::Hold kept = space.state().fds().KeepMemory(**file);
  return space.AddOwnMemory(*std::move(file), std::move(kept), std::move(label));
}

}  // namespace iovad
