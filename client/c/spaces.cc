#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/c/abi.h"
#include "client/c/handles.h"
#include "client/c/iovad.h"
#include "client/info.h"
#include "client/specs.h"

namespace iovad::c {
namespace {

// The API's numbers begin at 1.
constexpr uint32_t NumberOf(Placement placement) { return static_cast<uint32_t>(placement) + 1; }
static_assert(IOVAD_PLACEMENT_CONGRUENT == NumberOf(Placement::kCongruent));
static_assert(IOVAD_PLACEMENT_IDENTITY == NumberOf(Placement::kIdentity));
static_assert(IOVAD_PLACEMENT_FIRST_FIT == NumberOf(Placement::kFirstFit));

absl::StatusOr<IovaRange> RangeOf(const iovad_range& range) {
  const std::optional<IovaRange> known = IovaRange::FromBounds(Iova(range.first), Iova(range.last));
  if (!known.has_value()) return BadValue("a range's first is above its last");
  return *known;
}

absl::StatusOr<SpaceSpec> SpecOf(const iovad_space_spec& known) {
  SpaceSpec spec = {.name = Text(known.name)};
  if ((known.flags & IOVAD_SPACE_HAS_RANGE) != 0) {
    const absl::StatusOr<IovaRange> range = RangeOf(known.iova_range);
    if (!range.ok()) return range.status();
    spec.iova_range = *range;
  }
  if ((known.flags & IOVAD_SPACE_HAS_RESERVED) != 0) {
    spec.reserved.emplace();
    for (uint64_t i = 0; i < known.reserved_count; ++i) {
      const absl::StatusOr<IovaRange> range = RangeOf(known.reserved_ranges[i]);
      if (!range.ok()) return range.status();
      spec.reserved->push_back(*range);
    }
  }
  if (known.placement != 0) spec.placement = static_cast<Placement>(known.placement - 1);
  if (known.page_size != 0) spec.page_size = known.page_size;
  spec.max_mappings = known.max_mappings;
  if ((known.flags & IOVAD_SPACE_OWNED) != 0) spec.lifetime = Lifetime::kOwnerProcess;
  if ((known.flags & IOVAD_SPACE_HAS_GRACE) != 0) spec.grace = Milliseconds(known.grace_ms);
  spec.owner_handle = Text(known.owner_handle);
  return spec;
}

absl::Status CheckSpec(const iovad_space_spec& known) {
  constexpr uint32_t kFlags =
      IOVAD_SPACE_HAS_RANGE | IOVAD_SPACE_HAS_RESERVED | IOVAD_SPACE_OWNED | IOVAD_SPACE_HAS_GRACE;
  if ((known.flags & ~kFlags) != 0) return BadValue("spec: unknown flags");
  if (known.placement > IOVAD_PLACEMENT_FIRST_FIT) {
    return BadValue("spec: unknown placement");
  }
  if (known.reserved_count > 0) return Need(known.reserved_ranges, "spec: reserved_ranges");
  return absl::OkStatus();
}

iovad_space_info InfoOf(const SpaceInfo& space) {
  iovad_space_info info = {};
  info.placement = NumberOf(space.placement);
  CopyText(space.name, info.name);
  CopyText(space.uid, info.uid);
  info.iova_range = {space.iova_range.first().value(), space.iova_range.last().value()};
  info.page_size = space.page_size;
  info.revision = space.revision.value();
  info.mapping_count = space.mapping_count;
  info.max_mappings = space.max_mappings;
  info.mapped_bytes = space.mapped_bytes;
  info.svq_count = space.svq_count;
  info.attachment_count = static_cast<uint32_t>(space.attachments.size());
  for (const AttachmentInfo& attachment : space.attachments) {
    if (attachment.state == AttachmentInfo::State::kLive) ++info.live_count;
  }
  if (space.owner_process.has_value()) info.owner_pid = space.owner_process->pid;
  info.owner_is_gone = space.owner_gone_time.has_value() ? 1 : 0;
  return info;
}

// Hands a space out.
absl::Status Give(const Client& client, absl::StatusOr<SpaceHandle> made, iovad_space** space) {
  if (!made.ok()) return made.status();
  *space = new iovad_space{client, *std::move(made)};
  return absl::OkStatus();
}

}  // namespace

extern "C" {

// ---- The server ------------------------------------------------------------------

int iovad_connect(const char* address, const struct iovad_client_options* options,
                  struct iovad_client** client, struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(address, "address"); !s.ok()) return s;
    if (absl::Status s = Need(client, "client"); !s.ok()) return s;
    ClientOptions how;
    if (options != nullptr) {
      iovad_client_options known;
      if (absl::Status s = CopyIn(options, "options", known); !s.ok()) return s;
      how.timeout = Timeout(known.timeout_ms).value_or(how.timeout);
    }
    absl::StatusOr<Client> made = Client::Connect(address, how);
    if (!made.ok()) return made.status();
    *client = new iovad_client{*std::move(made)};
    return absl::OkStatus();
  });
}

void iovad_client_close(struct iovad_client* client) { delete client; }

int iovad_wait_until_serving(struct iovad_client* client, int64_t timeout_ms,
                             struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(client, "client"); !s.ok()) return s;
    return client->client.WaitUntilServing({.timeout = Milliseconds(timeout_ms)});
  });
}

int iovad_attest_process(struct iovad_client* client, const struct iovad_options* options,
                         char handle[IOVAD_HANDLE_SIZE], struct iovad_error* error) {
  return CallOf<CallOptions>(client, options, error, [&](const CallOptions& how) -> absl::Status {
    if (absl::Status s = Need(handle, "handle"); !s.ok()) return s;
    const absl::StatusOr<std::string> attested = client->client.AttestProcess(how);
    if (!attested.ok()) return attested.status();
    if (attested->size() >= IOVAD_HANDLE_SIZE) return absl::InternalError("a handle is too long");
    std::memcpy(handle, attested->c_str(), attested->size() + 1);
    return absl::OkStatus();
  });
}

// ---- Spaces ----------------------------------------------------------------------

int iovad_space_create(struct iovad_client* client, const struct iovad_space_spec* spec,
                       const struct iovad_options* options, struct iovad_space** space,
                       struct iovad_error* error) {
  return CallOf<RequestOptions>(
      client, options, error, [&](const RequestOptions& how) -> absl::Status {
        if (absl::Status s = Need(space, "space"); !s.ok()) return s;
        iovad_space_spec known;
        if (absl::Status s = CopyIn(spec, "spec", known); !s.ok()) return s;
        if (absl::Status s = CheckSpec(known); !s.ok()) return s;
        const absl::StatusOr<SpaceSpec> wanted = SpecOf(known);
        if (!wanted.ok()) return wanted.status();
        return Give(client->client, client->client.CreateSpace(*wanted, how), space);
      });
}

int iovad_space_open(struct iovad_client* client, const char* name, const char* uid,
                     const struct iovad_options* options, struct iovad_space** space,
                     struct iovad_error* error) {
  return CallOf<CallOptions>(client, options, error, [&](const CallOptions& how) -> absl::Status {
    if (absl::Status s = Need(name, "name"); !s.ok()) return s;
    if (absl::Status s = Need(space, "space"); !s.ok()) return s;
    return Give(client->client, client->client.OpenSpace(name, Text(uid), how), space);
  });
}

void iovad_space_close(struct iovad_space* space) { delete space; }

int iovad_space_delete(struct iovad_space* space, const struct iovad_options* options,
                       struct iovad_error* error) {
  return CallOf<ChangeOptions>(
      space, options, error, [&](const ChangeOptions& how) -> absl::Status {
        return space->space.DeleteSpace(SpaceHandle::Delete::kWithMappings, how);
      });
}

int iovad_space_get(struct iovad_space* space, const struct iovad_options* options,
                    struct iovad_space_info* info, struct iovad_error* error) {
  return CallOf<CallOptions>(space, options, error, [&](const CallOptions& how) -> absl::Status {
    if (absl::Status s = CheckOut(info, "info"); !s.ok()) return s;
    const absl::StatusOr<SpaceInfo> got = space->space.Get(how);
    if (!got.ok()) return got.status();
    CopyOut(InfoOf(*got), *info);
    return absl::OkStatus();
  });
}

int iovad_space_transfer(struct iovad_space* space, const char* owner_handle,
                         const struct iovad_options* options, struct iovad_error* error) {
  return CallOf<ChangeOptions>(space, options, error,
                               [&](const ChangeOptions& how) -> absl::Status {
                                 return space->space.Transfer(Text(owner_handle), how).status();
                               });
}

int iovad_attach_device(struct iovad_space* space, const char* device, uint32_t asid,
                        const struct iovad_options* options, struct iovad_error* error) {
  return CallOf<ChangeOptions>(
      space, options, error, [&](const ChangeOptions& how) -> absl::Status {
        if (absl::Status s = Need(device, "device"); !s.ok()) return s;
        return space->space.AttachDevice({.device = device, .asid = Asid(asid)}, how).status();
      });
}

int iovad_detach_device(struct iovad_space* space, const char* device, uint32_t asid,
                        const struct iovad_options* options, struct iovad_error* error) {
  return CallOf<ChangeOptions>(space, options, error,
                               [&](const ChangeOptions& how) -> absl::Status {
                                 if (absl::Status s = Need(device, "device"); !s.ok()) return s;
                                 return space->space.DetachDevice(device, Asid(asid), how).status();
                               });
}

// ---- Registered memory -------------------------------------------------------------

int iovad_register_memory(struct iovad_space* space, const struct iovad_memory_spec* memory,
                          const struct iovad_options* options, uint64_t* id,
                          struct iovad_error* error) {
  return CallOf<ChangeOptions>(
      space, options, error, [&](const ChangeOptions& how) -> absl::Status {
        iovad_memory_spec known;
        if (absl::Status s = CopyIn(memory, "memory", known); !s.ok()) return s;
        const std::optional<HvaRange> hva = HvaRange::FromSize(Hva(known.hva), known.size);
        if (!hva.has_value()) {
          return BadValue("memory: it is empty, or goes beyond 2^64");
        }
        const absl::StatusOr<MemoryInfo> registered = space->space.RegisterMemory(
            {.hva = *hva, .source = known.fd, .offset = known.offset, .label = Text(known.label)},
            how);
        if (!registered.ok()) return registered.status();
        if (id != nullptr) *id = registered->id.value();
        return absl::OkStatus();
      });
}

int iovad_unregister_memory(struct iovad_space* space, uint64_t id,
                            const struct iovad_options* options, struct iovad_error* error) {
  return CallOf<ChangeOptions>(space, options, error,
                               [&](const ChangeOptions& how) -> absl::Status {
                                 return space->space.UnregisterMemory(MemoryId(id), how);
                               });
}

int iovad_get_memory_fd(struct iovad_space* space, uint64_t id, const struct iovad_options* options,
                        int* fd, struct iovad_error* error) {
  return CallOf<CallOptions>(space, options, error, [&](const CallOptions& how) -> absl::Status {
    if (absl::Status s = Need(fd, "fd"); !s.ok()) return s;
    absl::StatusOr<UniqueFd> got = space->space.GetMemoryFd(MemoryId(id), how);
    if (!got.ok()) return got.status();
    *fd = got->Release();
    return absl::OkStatus();
  });
}

}  // extern "C"
}  // namespace iovad::c
