#include "core/vhost_vdpa_port.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "core/memlock.h"
#include "core/page.h"
#include "core/vduse.h"
#include "core/vhost_names.h"

namespace iovad {
namespace {

// `iova.last_offset()` bytes and one from `local` on; nothing when that wraps.
std::optional<HvaRange> LocalRange(Hva local, IovaRange iova) {
  return HvaRange::FromBounds(local, Hva(local.value() + iova.last_offset()));
}

// The same error, naming the device and the entry, and with `os_errno`.
absl::Status ForEntry(const absl::Status& status, const VhostVdpa& device, const IotlbEntry& entry,
                      int os_errno) {
  ErrorDetail detail = DetailOf(status).value_or(ErrorDetail{.reason = Reason::kDeviceError});
  detail.device = device.name();
  if (detail.os_errno == 0) detail.os_errno = os_errno;
  return MakeError(detail, absl::StrCat("device '", device.name(), "': UPDATE ", Hex(entry.iova),
                                        ": ", std::string(status.message())));
}

absl::Status NotRegistered(const VhostVdpa& device, const IotlbEntry& entry) {
  return ForEntry(
      MakeError({.reason = Reason::kMemoryNotRegistered},
                absl::StrCat("the process that owns the device does not have the memory at HVA ",
                             Hex(entry.uaddr), "; register it first")),
      device, entry, ENXIO);
}

// A pinned device drops the offset of the address in its page, and rounds the
// IOVA to whole pages (drivers/vhost/vdpa.c, vhost_vdpa_pa_map), so that the two
// have to agree.
bool SamePageOffset(const IotlbEntry& entry, Hva local) {
  return ((entry.iova.first().value() ^ local.value()) & (kPageSize - 1)) == 0;
}

absl::Status CheckPlace(const VhostVdpa& device, const IotlbEntry& entry, Hva local) {
  const VhostVdpaInfo& info = device.info();
  if (!info.iova_range.Contains(entry.iova)) {
    return ForEntry(MakeError({.reason = Reason::kOutsideIovaRange,
                               .ranges = {AddressRange::Of(info.iova_range)}},
                              absl::StrCat("outside the device's range ", Hex(info.iova_range))),
                    device, entry, EFAULT);
  }
  if (info.memory_model() != MemoryModel::kUseVa && !SamePageOffset(entry, local)) {
    return ForEntry(MakeError({.reason = Reason::kUnaligned},
                              absl::StrCat("IOVA and address ", Hex(local),
                                           " differ in their place inside a page")),
                    device, entry, EINVAL);
  }
  return absl::OkStatus();
}

// What the device's memory model asks of an entry's memory.
absl::Status CheckAreas(const VhostVdpa& device, const MemoryAreas& areas, const IotlbEntry& entry,
                        Hva local, int os_errno) {
  const std::optional<HvaRange> range = LocalRange(local, entry.iova);
  if (!range) {
    return ForEntry(MakeError({.reason = Reason::kRangeWraps},
                              absl::StrCat("the memory at ", Hex(local), " passes 2^64")),
                    device, entry, os_errno);
  }
  if (device.info().memory_model() != MemoryModel::kPinned) {
    const absl::Status status = UnsuitableMemory(areas.Look(*range), *range);
    return status.ok() ? status : ForEntry(status, device, entry, os_errno);
  }
  const MemoryAreas::Finding mapped = areas.LookMapped(*range);
  if (mapped.fault == MemoryFault::kNone &&
      (mapped.writable || !Permits(entry.access, Access::kWriteOnly))) {
    return absl::OkStatus();
  }
  const bool hole = mapped.fault != MemoryFault::kNone;
  return ForEntry(
      MakeError({.reason = Reason::kMemoryUnsuitable,
                 .ranges = {AddressRange::Of(hole ? mapped.where : *range)}},
                hole ? absl::StrCat("memory ", Hex(mapped.where), " is not mapped in this process")
                     : absl::StrCat("memory ", Hex(*range),
                                    " may not be written by this process, and the device is to "
                                    "write it; map it readable and writable, or read-only for "
                                    "the device")),
      device, entry, os_errno);
}

}  // namespace

VhostVdpaPort::VhostVdpaPort(const VhostVdpa& device, const UaddrResolver& resolver,
                             MemoryCheck check)
    : device_(device),
      resolver_(resolver),
      batches_(device.info().HasBackendFeature(VHOST_BACKEND_F_IOTLB_BATCH)),
      whole_pages_(device.info().memory_model() != MemoryModel::kUseVa),
      checks_memory_(check == MemoryCheck::kEachBatch &&
                     device.info().memory_model() != MemoryModel::kPinned),
      mappings_(new std::atomic<uint64_t>[device.info().as_num]()) {}

int VhostVdpaPort::Begin(Asid asid, Direction direction) {
  if (direction == Direction::kForward) failure_ = absl::OkStatus();
  in_batch_ = true;
  areas_.reset();
  if (lost_ && direction == Direction::kForward) return RefuseLost();
  if (!batches_) return 0;
  const int refused = device_.Send(VHOST_IOTLB_BATCH_BEGIN, asid);
  return refused == 0 ? 0 : Refuse(Explain("BATCH_BEGIN", asid, refused), refused);
}

int VhostVdpaPort::End(Asid asid, Direction /*direction*/) {
  in_batch_ = false;
  areas_.reset();
  if (!batches_) return 0;
  const int refused = SendEnd(asid);
  if (refused != 0) return Refuse(Explain("BATCH_END", asid, refused), refused);
  return lost_ ? RefuseLost() : 0;
}

int VhostVdpaPort::SendEnd(Asid asid) {
  const auto start = std::chrono::steady_clock::now();
  const int refused = device_.Send(VHOST_IOTLB_BATCH_END, asid);
  const auto elapsed = std::chrono::steady_clock::now() - start;
  const VdpaParent& parent = device_.info().parent;
  if (elapsed >= kShortestVduseTimeout && parent.driver == "vduse") {
    lost_ = lost_ || GaveUp(elapsed, VduseTimeout(parent.vdpa_name));
  }
  return refused;
}

int VhostVdpaPort::RefuseLost() {
  return Refuse(
      MakeError({.reason = Reason::kDeviceError, .os_errno = EIO, .device = device_.name()},
                absl::StrCat("device '", device_.name(),
                             "': its process did not answer in time (msg_timeout of VDUSE "
                             "device ",
                             device_.info().parent.vdpa_name,
                             "), so that the kernel has given it up for good; detach and "
                             "close it, and have its process make a new one")),
      EIO);
}

int VhostVdpaPort::Update(Asid asid, const IotlbEntry& entry, Direction /*direction*/) {
  const std::optional<Hva> local = resolver_.Local(entry);
  if (!local) return Refuse(NotRegistered(device_, entry), ENXIO);
  if (whole_pages_ && !SamePageOffset(entry, *local)) {
    return Refuse(CheckPlace(device_, entry, *local), EINVAL);
  }
  if (checks_memory_) {
    if (absl::Status status = CheckMemory(entry, *local); !status.ok()) {
      return Refuse(std::move(status), EINVAL);
    }
  }
  const int refused = device_.Send(VHOST_IOTLB_UPDATE, asid, entry.iova.first(), entry.iova.size(),
                                   *local, static_cast<uint8_t>(entry.access));
  if (refused != 0) {
    // The kernel emptied the address space: see PushOutcome::emptied.
    if (entry.iova.first() == Iova(0)) Count(asid) = 0;
    return Refuse(Diagnose(asid, entry, *local, refused), refused);
  }
  Count(asid).fetch_add(1, std::memory_order_relaxed);
  return 0;
}

int VhostVdpaPort::Invalidate(Asid asid, IovaRange iova, Direction /*direction*/) {
  const int refused = device_.Send(VHOST_IOTLB_INVALIDATE, asid, iova.first(), iova.size());
  if (refused != 0) {
    return Refuse(Explain(absl::StrCat("INVALIDATE ", Hex(iova)), asid, refused), refused);
  }
  // Not below 0: what an IOVA 0 failure took is counted off already.
  std::atomic<uint64_t>& count = Count(asid);
  if (count.load(std::memory_order_relaxed) > 0) count.fetch_sub(1, std::memory_order_relaxed);
  return 0;
}

int VhostVdpaPort::Clear(Asid asid) {
  failure_ = absl::OkStatus();
  // Not Begin: whether batches are offered or not, BATCH_BEGIN is what makes the
  // address space exist (vhost_vdpa_process_iotlb_msg), and without it INVALIDATE
  // is refused.
  int refused = device_.Send(VHOST_IOTLB_BATCH_BEGIN, asid);
  if (refused == 0) refused = device_.Send(VHOST_IOTLB_INVALIDATE, asid);
  const int end_refused = SendEnd(asid);
  if (refused == 0) refused = end_refused;
  if (refused != 0) return Refuse(Explain("emptying the address space", asid, refused), refused);
  Count(asid) = 0;
  return lost_ ? RefuseLost() : 0;
}

uint64_t VhostVdpaPort::mappings(Asid asid) const {
  return asid.value() < device_.info().as_num
             ? mappings_[asid.value()].load(std::memory_order_relaxed)
             : 0;
}

std::atomic<uint64_t>& VhostVdpaPort::Count(Asid asid) {
  // An address space that is not there is refused by the kernel where ASIDs are
  // negotiated, and taken for 0 where they are not.
  return mappings_[asid.value() < device_.info().as_num ? asid.value() : 0];
}

int VhostVdpaPort::Refuse(absl::Status why, int os_errno) {
  if (failure_.ok()) failure_ = std::move(why);
  return os_errno;
}

absl::Status VhostVdpaPort::CheckMemory(const IotlbEntry& entry, Hva local) {
  // What was found good in this batch: most often the area of the entry before.
  if (areas_ && in_batch_ && CheckAreas(device_, *areas_, entry, local, EINVAL).ok()) {
    return absl::OkStatus();
  }
  areas_.reset();
  const std::optional<HvaRange> range = LocalRange(local, entry.iova);
  if (range) {
    if (!maps_) maps_ = UniqueFd(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    absl::StatusOr<MemoryAreas> areas = MemoryAreas::Over(maps_, *range);
    if (!areas.ok()) return ForEntry(areas.status(), device_, entry, EIO);
    areas_ = *std::move(areas);
  } else {
    areas_ = MemoryAreas();
  }
  return CheckAreas(device_, *areas_, entry, local, EINVAL);
}

absl::Status VhostVdpaPort::Explain(const std::string& message, Asid asid, int os_errno) const {
  const std::string what =
      absl::StrCat("device '", device_.name(), "': ", message, " in address space ", asid.value(),
                   ": ", ErrnoName(os_errno));
  ErrorDetail detail = {
      .reason = Reason::kDeviceError, .os_errno = os_errno, .device = device_.name()};
  if (getpid() != device_.owner_pid()) {
    detail.reason = Reason::kNotOwner;
    return MakeError(detail, absl::StrCat(what, "; process ", device_.owner_pid(),
                                          " owns the device, not this one"));
  }
  return MakeError(detail, absl::StrCat(what, "; a batch may be open in another address space"));
}

absl::Status VhostVdpaPort::Diagnose(Asid asid, const IotlbEntry& entry, Hva local,
                                     int os_errno) const {
  if (getpid() != device_.owner_pid()) {
    return Explain(absl::StrCat("UPDATE ", Hex(entry.iova)), asid, os_errno);
  }
  if (absl::Status status = CheckPlace(device_, entry, local); !status.ok()) return status;
  if (const absl::StatusOr<MemoryAreas> areas = MemoryAreas::OfThisProcess(); areas.ok()) {
    absl::Status status = CheckAreas(device_, *areas, entry, local, os_errno);
    if (!status.ok()) return status;
  }
  const VhostVdpaInfo& info = device_.info();
  const bool pinned = info.memory_model() != MemoryModel::kUseVa;
  if (pinned) {
    if (const absl::StatusOr<MemlockState> memlock = ReadMemlock(); memlock.ok()) {
      const absl::Status status = CheckMemlock(*memlock, PinnedBytes(entry.iova));
      if (!status.ok()) return ForEntry(status, device_, entry, os_errno);
    }
  }
  const uint64_t budget = info.entry_budget();
  const uint64_t in_place = mappings(asid);
  // A pinned mapping takes an entry for each physically contiguous chunk: at least
  // one, at most one a page.
  const uint64_t most = pinned ? PinnedBytes(entry.iova) / kPageSize : 1;
  if (in_place >= budget || most > budget - in_place) {
    return ForEntry(
        MakeError({.reason = Reason::kEntryBudget, .limit = budget, .needed = in_place + most},
                  absl::StrCat("the address space holds ", in_place, " mappings, of ", budget,
                               " entries that the kernel allows; ",
                               pinned ? "pinned memory takes one for each physically contiguous "
                                        "chunk, so use huge pages or "
                                      : "",
                               "load vhost_vdpa and the device's driver with a larger "
                               "max_iotlb_entries")),
        device_, entry, os_errno);
  }
  return ForEntry(
      MakeError({.reason = Reason::kDeviceError},
                absl::StrCat(ErrnoName(os_errno),
                             "; the kernel does not say why, and owner, range, memory and limits "
                             "are in order: the range overlaps an entry that this process did not "
                             "account for, or the device itself refused (see the kernel's log)")),
      device_, entry, os_errno);
}

absl::Status CheckEntries(const VhostVdpa& device, const UaddrResolver& resolver,
                          absl::Span<const IotlbEntry> entries) {
  if (entries.empty()) return absl::OkStatus();
  const absl::StatusOr<MemoryAreas> areas = MemoryAreas::OfThisProcess();
  if (!areas.ok()) return areas.status();
  for (size_t i = 0; i < entries.size(); ++i) {
    const IotlbEntry& entry = entries[i];
    const std::optional<Hva> local = resolver.Local(entry);
    absl::Status status = local ? CheckPlace(device, entry, *local) : NotRegistered(device, entry);
    if (status.ok()) status = CheckAreas(device, *areas, entry, *local, EINVAL);
    if (!status.ok()) return WithOpIndex(status, static_cast<uint32_t>(i));
  }
  return absl::OkStatus();
}

}  // namespace iovad
