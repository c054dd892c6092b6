#include "core/memory_model.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace iovad {
namespace {

namespace fs = std::filesystem;

// The directory of the device in sysfs; empty when there is none.
fs::path DeviceDirectory(dev_t device, const std::string& sysfs) {
  std::error_code error;
  fs::path directory = fs::canonical(
      absl::StrCat(sysfs, "/dev/char/", gnu_dev_major(device), ":", gnu_dev_minor(device)), error);
  return error ? fs::path() : directory;
}

// The last part of where a link leads; empty when there is none.
std::string LinkName(const fs::path& link) {
  std::error_code error;
  const fs::path target = fs::read_symlink(link, error);
  return error ? std::string() : target.filename().string();
}

std::optional<std::string> ModuleParameter(const std::string& sysfs, const std::string& module,
                                           const std::string& parameter) {
  std::ifstream file(absl::StrCat(sysfs, "/module/", module, "/parameters/", parameter));
  std::string value;
  if (!std::getline(file, value)) return std::nullopt;
  return value;
}

// What max_iotlb_entries of a module allows. 0 is no limit (drivers/vhost/iotlb.c,
// vhost_iotlb_add_range_ctx), and so is a module without the parameter.
uint64_t EntryLimit(const std::string& sysfs, const std::string& module) {
  constexpr uint64_t kNone = ~uint64_t{0};
  const auto text = ModuleParameter(sysfs, module, "max_iotlb_entries");
  uint64_t limit = 0;
  if (!text || !absl::SimpleAtoi(*text, &limit) || limit == 0) return kNone;
  return limit;
}

// The module that made the vDPA device in `vdpa`; empty when unknown.
std::string DriverOf(const fs::path& vdpa, const std::string& sysfs) {
  const fs::path parent = vdpa.parent_path();
  if (LinkName(parent / "subsystem") == "vduse") return "vduse";
  if (std::string module = LinkName(parent / "driver" / "module"); !module.empty()) {
    return module;
  }
  if (std::string driver = LinkName(parent / "driver"); !driver.empty()) return driver;
  std::error_code error;
  if (parent.filename() == "devices" && fs::exists(sysfs + "/module/vdpa_sim", error)) {
    return "vdpa_sim";
  }
  return "";
}

MemoryModel ModelOf(const std::string& driver, const std::string& sysfs) {
  if (driver.empty()) return MemoryModel::kUnknown;
  if (driver == "vduse") return MemoryModel::kUseVa;
  if (driver != "vdpa_sim") return MemoryModel::kPinned;
  const auto use_va = ModuleParameter(sysfs, driver, "use_va");
  if (!use_va) return MemoryModel::kUnknown;
  return *use_va == "Y" || *use_va == "1" ? MemoryModel::kUseVa : MemoryModel::kPinned;
}

}  // namespace

std::string_view MemoryModelName(MemoryModel model) {
  switch (model) {
    case MemoryModel::kUseVa:
      return "USE_VA";
    case MemoryModel::kPinned:
      return "PINNED";
    case MemoryModel::kUnknown:
      break;
  }
  return "UNKNOWN";
}

VdpaParent ReadVdpaParent(dev_t device, const std::string& sysfs) {
  VdpaParent parent;
  const fs::path directory = DeviceDirectory(device, sysfs);
  if (!directory.empty()) {
    const fs::path vdpa = directory.parent_path();
    parent.vdpa_name = vdpa.filename().string();
    parent.driver = DriverOf(vdpa, sysfs);
    parent.memory_model = ModelOf(parent.driver, sysfs);
  }
  uint64_t limit = EntryLimit(sysfs, "vhost_vdpa");
  if (!parent.driver.empty()) limit = std::min(limit, EntryLimit(sysfs, parent.driver));
  // A kernel that does not show its limit has the default one all the same.
  std::error_code error;
  const bool shown =
      fs::exists(sysfs + "/module/vhost_vdpa/parameters/max_iotlb_entries", error) && !error;
  parent.entry_budget = shown ? limit : std::min(limit, kDefaultEntryBudget);
  return parent;
}

VhostVdpaKind IsVhostVdpa(dev_t device, const std::string& sysfs) {
  std::error_code error;
  if (!fs::is_directory(sysfs + "/dev/char", error)) return VhostVdpaKind::kUnknown;
  const fs::path directory = DeviceDirectory(device, sysfs);
  const bool is = directory.filename().string().rfind("vhost-vdpa-", 0) == 0 &&
                  LinkName(directory.parent_path() / "subsystem") == "vdpa";
  return is ? VhostVdpaKind::kYes : VhostVdpaKind::kNo;
}

}  // namespace iovad
