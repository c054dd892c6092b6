#include "server/direct_source.h"

#include <limits.h>
#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/unique_fd.h"

namespace iovad {
namespace {

absl::Status CheckPath(const std::string& path, const std::string& name) {
  const auto error = [&](Reason reason, const char* what) {
    return MakeError({.reason = reason, .device = name},
                     absl::StrCat("device '", name, "': path '",
                                  absl::Utf8SafeCEscape(path.substr(0, 64)), "' ", what));
  };
  if (path.empty()) return error(Reason::kMissingField, "is missing");
  // The server's own working directory means nothing to a client.
  if (path.front() != '/') return error(Reason::kInvalidValue, "does not begin with /");
  if (path.size() >= PATH_MAX) return error(Reason::kInvalidValue, "is too long");
  if (path.find('\0') != std::string::npos) return error(Reason::kInvalidValue, "holds a NUL");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DirectSource> FindDirectSource(const v1::OpenDeviceRequest& request,
                                              HandleStore& handles) {
  const std::string& name = request.device();
  struct stat node = {};
  if (request.has_path()) {
    if (absl::Status s = CheckPath(request.path(), name); !s.ok()) return s;
    if (stat(request.path().c_str(), &node) != 0) node.st_rdev = 0;
    return DirectSource{
        .open = [path = request.path(), name] { return VhostVdpa::Open(path, name); },
        .device_number = node.st_rdev};
  }
  if (!request.has_fd_handle()) {
    return MakeError({.reason = Reason::kMissingField, .device = name},
                     absl::StrCat("device '", name, "': path, fd_handle or simulated is missing"));
  }
  absl::StatusOr<UniqueFd> fd = handles.Claim(request.fd_handle(), FdKind::kDevice);
  if (!fd.ok()) return fd.status();
  if (fstat(fd->get(), &node) != 0) node.st_rdev = 0;
  // Shared, since a function must be copyable.
  auto kept = std::make_shared<UniqueFd>(*std::move(fd));
  return DirectSource{.open = [kept, name] { return VhostVdpa::Adopt(std::move(*kept), name); },
                      .device_number = node.st_rdev};
}

absl::Status NameHolder(const absl::Status& status, dev_t device_number, const Registry& registry) {
  if (ReasonOf(status) != Reason::kDeviceBusy || device_number == 0) return status;
  for (const std::shared_ptr<Device>& device : registry.Devices("", SIZE_MAX)) {
    if (device->properties().device_number != device_number) continue;
    ErrorDetail detail = *DetailOf(status);
    detail.device = device->name();
    return MakeError(detail, absl::StrCat(std::string(status.message()), "; it is device '",
                                          device->name(), "' of this server"));
  }
  return status;
}

}  // namespace iovad
