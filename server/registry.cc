#include "server/registry.h"

#include <atomic>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "core/error.h"
#include "core/name.h"
#include "server/attachment_change.h"
#include "server/byte_buffer.h"

namespace iovad {
namespace {

// Between two announcements of changed mappings: a thousand a second at most,
// whatever the spaces do.
constexpr absl::Duration kAnnouncePause = absl::Milliseconds(1);
// Between two reports of how many there are.
constexpr absl::Duration kCountsPause = absl::Seconds(1);

absl::Status CheckName(const char* kind, const std::string& name) {
  if (IsValidName(name)) return absl::OkStatus();
  return MakeError({.reason = Reason::kInvalidName},
                   absl::StrCat("'", absl::Utf8SafeCEscape(name.substr(0, 64)), "' names no ", kind,
                                ": a name has 1 to 63 of a-z, 0-9, '.', '_' and '-', with a "
                                "letter or digit at both ends"));
}

// What happened to the spaces, as their watchers are told it.
class SpacesNotice final : public Notice {
 public:
  explicit SpacesNotice(v1::WatchSpacesResponse message)
      : Notice(Revision(), {.bytes = message.SpaceUsedLong() + message.ByteSizeLong()}),
        message_(std::move(message)) {}

 private:
  std::vector<grpc::ByteBuffer> Make() const override {
    return {ToByteBuffer(message_.SerializeAsString())};
  }

  const v1::WatchSpacesResponse message_;
};

template <typename T>
std::vector<std::shared_ptr<T>> After(const std::map<std::string, std::shared_ptr<T>>& all,
                                      const std::string& after, size_t most) {
  std::vector<std::shared_ptr<T>> page;
  for (auto it = all.upper_bound(after); it != all.end() && page.size() < most; ++it) {
    page.push_back(it->second);
  }
  return page;
}

}  // namespace

Registry::Registry(const Limits& limits, State& state)
    : limits_(limits),
      state_(state),
      hub_(std::make_shared<WatchHub>(WatchHub::Bounds{.messages = limits.watcher_queue_events,
                                                       .bytes = limits.watcher_queue_bytes},
                                      watch_thread_,
                                      "the watcher of spaces fell too far behind; watch again")),
      request_log_({.age = absl::FromChrono(limits.request_id_ttl),
                    .count = limits.max_request_ids,
                    .bytes = limits.request_id_bytes}) {}

std::shared_ptr<Space> Registry::MakeSpace(SpaceOptions options, Space::Identity identity) {
  auto space = std::make_shared<Space>(std::move(options), std::move(identity), limits_, state_,
                                       watch_thread_);
  // Not the space itself: it would keep itself alive.
  space->OnChanged([this, raw = space.get()] { SpaceChanged(*raw); });
  space->OnMappingsChanged([this, weak = std::weak_ptr<Space>(space),
                            pending = std::make_shared<std::atomic<bool>>(false)] {
    if (!hub_->has_watchers() || pending->exchange(true)) return;
    announcer_.Run(TaskThread::MayBlock::kYes, [this, weak, pending] {
      announcer_.Sleep(kAnnouncePause);
      pending->store(false);
      if (const auto changed = weak.lock()) SpaceChanged(*changed);
    });
  });
  return space;
}

absl::StatusOr<std::shared_ptr<Space>> Registry::RestoreSpace(SpaceOptions options,
                                                              Space::Identity identity) {
  const std::string name = options.name;
  std::shared_ptr<Space> space = MakeSpace(std::move(options), std::move(identity));
  const MutexLock lock(mu_);
  if (absl::Status s = CheckFree(name); !s.ok()) return s;
  spaces_.emplace(name, space);
  CountsChanged();
  return space;
}

absl::Status Registry::CheckFree(const std::string& space) const {
  if (!spaces_.contains(space) && !beginning_.contains(space)) return absl::OkStatus();
  return MakeError({.reason = Reason::kNameTaken},
                   absl::StrCat("there is a space '", space, "' already"));
}

absl::Status Registry::CheckNewSpace(const std::string& name) const {
  if (absl::Status s = CheckName("space", name); !s.ok()) return s;
  const MutexLock lock(mu_);
  return CheckFree(name);
}

absl::StatusOr<std::shared_ptr<Space>> Registry::CreateSpace(
    SpaceOptions options, Space::Identity identity, const std::vector<AttachTo>& attach_to) {
  const std::string name = options.name;
  if (absl::Status s = CheckName("space", name); !s.ok()) return s;
  identity.number = state_.NewSpaceNumber();
  const std::shared_ptr<Space> space = MakeSpace(std::move(options), std::move(identity));

  const MutexLock lock(mu_);
  if (absl::Status s = CheckFree(name); !s.ok()) return s;
  const size_t count = spaces_.size() + beginning_.size();
  if (count >= limits_.max_spaces) {
    return MakeError(
        {.reason = Reason::kSpaceLimit, .limit = limits_.max_spaces, .needed = count + 1},
        absl::StrCat("space '", name, "': there are ", count,
                     " spaces already, as many as there may be; delete some or raise "
                     "limits.max-spaces"));
  }
  std::vector<PushTarget> claimed;
  absl::Status attached;
  for (const AttachTo& to : attach_to) {
    const absl::StatusOr<PushTarget> target = ClaimLocked(name, to);
    attached = target.status();
    if (!attached.ok()) break;
    claimed.push_back(*target);
    attached = space->AttachWhileNew(*target, to.groups);
    if (!attached.ok()) break;
  }
  if (!attached.ok()) {
    for (const PushTarget& t : claimed) claims_.erase({t.device->name(), t.asid});
    return attached;
  }
  beginning_.emplace(name, space);
  return space;
}

void Registry::AddSpace(const std::shared_ptr<Space>& space) {
  const absl::Cleanup wake = [this] { hub_->Wake(); };
  const MutexLock lock(mu_);
  beginning_.erase(space->name());
  spaces_.emplace(space->name(), space);
  CountsChanged();
  v1::WatchSpacesResponse event;
  space->Describe(*event.mutable_created());
  Announce(std::move(event));
}

absl::StatusOr<std::shared_ptr<Space>> Registry::FindSpace(const std::string& name,
                                                           const std::string& uid) const {
  if (absl::Status s = CheckName("space", name); !s.ok()) return s;
  const MutexLock lock(mu_);
  const auto it = spaces_.find(name);
  if (it == spaces_.end()) {
    return MakeError({.reason = Reason::kSpaceNotFound},
                     absl::StrCat("there is no space '", name,
                                  "'; ListSpaces shows those there "
                                  "are"));
  }
  if (!uid.empty() && uid != it->second->uid()) {
    return MakeError({.reason = Reason::kSpaceNotFound},
                     absl::StrCat("space '", name, "' is another one now: its uid is ",
                                  it->second->uid(), ", not ", uid.substr(0, 64)));
  }
  return it->second;
}

std::vector<std::shared_ptr<Space>> Registry::Spaces(const std::string& after, size_t most) const {
  const MutexLock lock(mu_);
  return After(spaces_, after, most);
}

void Registry::RemoveSpace(const Space& space) {
  std::vector<PushTarget> released;
  {
    const MutexLock lock(mu_);
    const bool began = spaces_.contains(space.name());
    auto& spaces = began ? spaces_ : beginning_;
    const auto it = spaces.find(space.name());
    if (it == spaces.end() || it->second.get() != &space) return;
    for (auto claim = claims_.begin(); claim != claims_.end();) {
      if (claim->second != space.name()) {
        ++claim;
        continue;
      }
      const auto& [device, asid] = claim->first;
      released.push_back({.device = devices_.at(device), .asid = asid});
      claim = claims_.erase(claim);
    }
    for (const PushTarget& target : released) DropIfUnclaimed(target.device->name());
    v1::WatchSpacesResponse event;
    space.Describe(*event.mutable_deleted());
    spaces.erase(it);
    if (began) {
      CountsChanged();
      Announce(std::move(event));
    }
  }
  hub_->Wake();
  const absl::Status deleted = MakeError({.reason = Reason::kSpaceNotFound},
                                         absl::StrCat("space '", space.name(), "' was deleted"));
  for (const PushTarget& target : released) target.device->Released(target.asid, deleted);
}

Registry::SpacesWatchStart Registry::WatchSpaces(std::function<void()> wake) {
  SpacesWatchStart start;
  const MutexLock lock(mu_);
  // Before the spaces are looked at, so that none changes in between unnoticed;
  // what is announced waits for the lock.
  start.watcher = hub_->Subscribe(std::move(wake));
  start.snapshot.reserve(spaces_.size() + 1);
  for (const auto& [name, space] : spaces_) {
    space->Describe(*start.snapshot.emplace_back().mutable_created());
  }
  start.snapshot.emplace_back().set_snapshot_end(true);
  return start;
}

void Registry::SpaceChanged(const Space& space) {
  const absl::Cleanup wake = [this] { hub_->Wake(); };
  const MutexLock lock(mu_);
  // Deleted meanwhile: that has been announced.
  const auto it = spaces_.find(space.name());
  if (it == spaces_.end() || it->second.get() != &space) return;
  v1::WatchSpacesResponse event;
  space.Describe(*event.mutable_changed());
  Announce(std::move(event));
}

void Registry::Announce(v1::WatchSpacesResponse event) {
  if (hub_->has_watchers()) hub_->Publish(std::make_shared<const SpacesNotice>(std::move(event)));
}

void Registry::OnCounts(std::function<void(size_t spaces, size_t devices)> tell) {
  const MutexLock lock(mu_);
  tell_counts_ = std::move(tell);
  CountsChanged();
}

void Registry::CountsChanged() {
  if (!tell_counts_ || std::exchange(counts_pending_, true)) return;
  counter_.Run(TaskThread::MayBlock::kYes, [this, tell = tell_counts_] {
    size_t spaces = 0;
    size_t devices = 0;
    {
      const MutexLock lock(mu_);
      counts_pending_ = false;
      spaces = spaces_.size();
      devices = devices_.size();
    }
    tell(spaces, devices);
    counter_.Sleep(kCountsPause);
  });
}

absl::Status Registry::CheckFreeDevice(const std::string& name) const {
  if (absl::Status s = CheckName("device", name); !s.ok()) return s;
  if (!devices_.contains(name) && !held_devices_.contains(name)) return absl::OkStatus();
  return MakeError({.reason = Reason::kNameTaken, .device = name},
                   absl::StrCat("there is a device '", name, "' already"));
}

absl::Status Registry::HoldDeviceName(const std::string& name) {
  const MutexLock lock(mu_);
  if (absl::Status s = CheckFreeDevice(name); !s.ok()) return s;
  held_devices_.insert(name);
  return absl::OkStatus();
}

void Registry::FreeDeviceName(const std::string& name) {
  const MutexLock lock(mu_);
  held_devices_.erase(name);
}

absl::Status Registry::AddDevice(std::shared_ptr<Device> device) {
  const std::string name = device->name();
  const MutexLock lock(mu_);
  held_devices_.erase(name);
  if (absl::Status s = CheckFreeDevice(name); !s.ok()) return s;
  devices_.emplace(name, std::move(device));
  CountsChanged();
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Device>> Registry::FindDevice(const std::string& name) const {
  const MutexLock lock(mu_);
  return FindDeviceLocked(name);
}

absl::StatusOr<std::shared_ptr<Device>> Registry::FindDeviceLocked(const std::string& name) const {
  if (absl::Status s = CheckName("device", name); !s.ok()) return s;
  const auto it = devices_.find(name);
  if (it != devices_.end()) return it->second;
  return MakeError({.reason = Reason::kDeviceNotFound, .device = name},
                   absl::StrCat("there is no device '", name,
                                "'; ListDevices shows those there "
                                "are"));
}

std::vector<std::shared_ptr<Device>> Registry::Devices(const std::string& after,
                                                       size_t most) const {
  const MutexLock lock(mu_);
  return After(devices_, after, most);
}

absl::StatusOr<std::shared_ptr<Device>> Registry::HoldDevice(const std::string& name) {
  const MutexLock lock(mu_);
  absl::StatusOr<std::shared_ptr<Device>> found = FindDeviceLocked(name);
  if (!found.ok()) return found;
  const auto claim = claims_.lower_bound({name, Asid(0)});
  if (claim != claims_.end() && claim->first.first == name) {
    return MakeError({.reason = Reason::kInUse, .device = name},
                     absl::StrCat("device '", name, "' is attached to space '", claim->second,
                                  "' (ASID ", claim->first.second.value(), "); detach it first"));
  }
  devices_.erase(name);
  held_devices_.insert(name);
  CountsChanged();
  return found;
}

absl::StatusOr<PushTarget> Registry::Claim(const Space& space, const AttachTo& attach_to) {
  const MutexLock lock(mu_);
  return ClaimLocked(space.name(), attach_to);
}

absl::StatusOr<PushTarget> Registry::ClaimLocked(const std::string& space,
                                                 const AttachTo& attach_to) {
  const std::string& name = attach_to.device;
  const std::string where = absl::StrCat("space '", space, "': ");
  if (absl::Status s = CheckName("device", name); !s.ok()) return s;
  const auto it = devices_.find(name);
  if (it == devices_.end()) {
    return MakeError({.reason = Reason::kDeviceNotFound, .device = name},
                     absl::StrCat(where, "there is no device '", name, "' to attach"));
  }
  const DeviceProperties& device = it->second->properties();
  if (attach_to.asid.value() >= device.as_num) {
    return MakeError({.reason = Reason::kInvalidValue, .device = name, .limit = device.as_num},
                     absl::StrCat(where, "device '", name, "' has ", device.as_num,
                                  " address spaces, so there is no ASID ", attach_to.asid.value()));
  }
  for (const uint32_t group : attach_to.groups) {
    if (!device.Has("IOTLB_ASID")) {
      return MakeError({.reason = Reason::kNoDeviceCapability, .device = name},
                       absl::StrCat(where, "device '", name,
                                    "' cannot give groups an address space (no IOTLB_ASID)"));
    }
    if (group >= device.group_num) {
      return MakeError({.reason = Reason::kInvalidValue, .device = name, .limit = device.group_num},
                       absl::StrCat(where, "device '", name, "' has ", device.group_num,
                                    " groups, so there is no group ", group));
    }
  }
  const auto [claim, is_new] = claims_.try_emplace({name, attach_to.asid}, space);
  if (!is_new) {
    return MakeError({.reason = Reason::kDeviceBusy, .device = name},
                     absl::StrCat(where, "ASID ", attach_to.asid.value(), " of device '", name,
                                  "' is attached to space '", claim->second, "' already"));
  }
  return PushTarget{.device = it->second, .asid = attach_to.asid};
}

void Registry::Release(const PushTarget& target) {
  {
    const MutexLock lock(mu_);
    claims_.erase({target.device->name(), target.asid});
    DropIfUnclaimed(target.device->name());
  }
  target.device->Released(target.asid, absl::OkStatus());
}

absl::StatusOr<Registry::Joined> Registry::Join(const Space& space,
                                                const std::shared_ptr<Device>& device, Asid asid) {
  const std::string& name = device->name();
  if (absl::Status s = CheckName("device", name); !s.ok()) return s;
  const MutexLock lock(mu_);
  if (held_devices_.contains(name)) return CheckFreeDevice(name);
  const auto [it, is_new_device] = devices_.try_emplace(name, device);
  const std::shared_ptr<Device> there = it->second;
  if (there->properties().backend != device->properties().backend) {
    return MakeError({.reason = Reason::kNameTaken, .device = name},
                     absl::StrCat("there is a device '", name,
                                  "' already, which is not a relay's; choose another name"));
  }
  const auto claim = claims_.find({name, asid});
  if (claim != claims_.end() && claim->second == space.name()) {
    return Joined{.target = {.device = there, .asid = asid}, .is_new = false};
  }
  const absl::StatusOr<PushTarget> target = ClaimLocked(space.name(), {name, asid});
  if (!target.ok()) {
    if (is_new_device) devices_.erase(it);
    return target.status();
  }
  if (is_new_device) CountsChanged();
  return Joined{.target = *target, .is_new = true};
}

void Registry::DropIfUnclaimed(const std::string& device) {
  const auto it = devices_.find(device);
  if (it == devices_.end() || it->second->properties().backend != DeviceBackend::kRelay) return;
  const auto claim = claims_.lower_bound({device, Asid(0)});
  if (claim != claims_.end() && claim->first.first == device) return;
  devices_.erase(it);
  CountsChanged();
}

std::map<Asid, std::shared_ptr<Space>> Registry::AttachedTo(const std::string& device) const {
  std::map<Asid, std::shared_ptr<Space>> attached;
  const MutexLock lock(mu_);
  for (auto it = claims_.lower_bound({device, Asid(0)});
       it != claims_.end() && it->first.first == device; ++it) {
    const auto space = spaces_.find(it->second);
    if (space != spaces_.end()) attached.emplace(it->first.second, space->second);
  }
  return attached;
}

}  // namespace iovad
