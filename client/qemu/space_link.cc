#include "client/qemu/space_link.h"

#include <sys/random.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "core/fd_message.h"

namespace iovad::qemu {
namespace {

// A QEMU that ends waits for a call that is under way.
constexpr absl::Duration kLookTimeout = absl::Seconds(2);
constexpr absl::Duration kChangeTimeout = absl::Seconds(5);

constexpr char kRunLabel[] = "iovad.qemu/run";
constexpr char kPidLabel[] = "iovad.qemu/pid";

std::string RandomName() {
  char bytes[16] = {};
  (void)!getrandom(bytes, sizeof bytes, 0);
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

GuestMapping FromProto(const v1::Mapping& mapping) {
  return {.gpa = Gpa(mapping.gpa()),
          .hva = Hva(mapping.hva()),
          .size = mapping.size(),
          .access = static_cast<Access>(mapping.access())};
}

}  // namespace

SpaceLink::SpaceLink(client::Connection& connection, std::string space)
    : connection_(connection), space_(std::move(space)), run_(RandomName()) {}

absl::Status SpaceLink::Refresh() {
  const auto server = connection_.GetServerInfo({}, {.timeout = kLookTimeout});
  if (!server.ok()) return server.status();
  fd_socket_ = server->fd_socket();
  // Memory by descriptor is missing in a server that was started again.
  if (server->epoch() != server_epoch_) is_current_ = false;
  server_epoch_ = server->epoch();

  v1::GetSpaceRequest request;
  request.set_space(space_);
  const auto got = connection_.GetSpace(request, {.timeout = kLookTimeout});
  if (client::ReasonOf(got.status()) == v1::REASON_SPACE_NOT_FOUND) return Create();
  if (!got.ok()) return got.status();
  const v1::Space& space = got->space();
  const auto run = space.labels().find(kRunLabel);
  if (run == space.labels().end() || run->second != run_) {
    return absl::AlreadyExistsError(absl::StrCat(
        "there is a space of that name already",
        space.owner().empty() ? "" : absl::StrCat(", of ", space.owner()), "; it is left alone"));
  }
  if (space.uid() != uid_) files_.clear();
  if (is_current_ && space.uid() == uid_ && space.revision() == revision_) return absl::OkStatus();
  uid_ = space.uid();
  return Load();
}

absl::Status SpaceLink::Create() {
  is_current_ = false;
  uid_.clear();
  files_.clear();
  absl::StatusOr<client::FdSocket> fds = ConnectFds();
  if (!fds.ok()) return fds.status();
  const auto self = fds->Attest();
  if (!self.ok()) return self.status();
  v1::CreateSpaceRequest request;
  request.set_space(space_);
  request.set_iova_page_size(kPage);
  request.set_lifetime(v1::LIFETIME_OWNER_PROCESS);
  request.set_owner_handle(self->handle);
  (*request.mutable_labels())[kRunLabel] = run_;
  (*request.mutable_labels())[kPidLabel] = absl::StrCat(getpid());
  const auto created = connection_.CreateSpace(request, {.timeout = kChangeTimeout});
  if (!created.ok()) return created.status();
  uid_ = created->space().uid();
  revision_ = created->space().revision();
  contents_ = {};
  is_current_ = true;
  return absl::OkStatus();
}

absl::Status SpaceLink::Load() {
  is_current_ = false;
  SpaceContents contents;
  v1::ListMappingsRequest mappings;
  mappings.set_space(space_);
  mappings.set_kind(v1::MAPPING_KIND_GUEST);
  do {
    const auto page = connection_.ListMappings(mappings, {.timeout = kLookTimeout});
    if (!page.ok()) return page.status();
    for (const v1::Mapping& mapping : page->mappings()) {
      contents.mapped.push_back(
          {.id = MappingId(mapping.mapping_id()), .mapping = FromProto(mapping)});
    }
    revision_ = page->revision();
    mappings.set_page_token(page->next_page_token());
  } while (!mappings.page_token().empty());

  v1::ListMemoryRequest memories;
  memories.set_space(space_);
  const auto listed = connection_.ListMemory(memories, {.timeout = kLookTimeout});
  if (!listed.ok()) return listed.status();
  for (const v1::Memory& memory : listed->memory()) {
    const MemoryId id(memory.memory_id());
    const auto known = files_.find(id);
    const auto range = HvaRange::FromSize(Hva(memory.hva()), memory.size());
    if (!range.has_value()) continue;
    contents.registered.push_back(
        {.id = id,
         .file = known != files_.end() ? known->second
                                       : MemoryFile{.hva = *range, .offset = memory.offset()},
         .missing = memory.state() == v1::MEMORY_STATE_MISSING});
  }
  contents_ = std::move(contents);
  is_current_ = true;
  return absl::OkStatus();
}

absl::Status SpaceLink::Apply(const Step& step) {
  is_current_ = false;
  for (const MemoryFile& file : step.add_memory) {
    if (absl::Status status = AddMemory(file); !status.ok()) return status;
  }
  if (!step.unmap.empty() || !step.map.empty()) {
    if (absl::Status status = ChangeMappings(step); !status.ok()) return status;
  }
  for (const MemoryId id : step.remove_memory) {
    v1::UnregisterMemoryRequest request;
    request.set_space(space_);
    request.set_space_uid(uid_);
    request.set_memory_id(id.value());
    const auto removed = connection_.UnregisterMemory(request, {.timeout = kChangeTimeout});
    if (!removed.ok()) return removed.status();
    files_.erase(id);
  }
  return absl::OkStatus();
}

absl::Status SpaceLink::AddMemory(const MemoryFile& file) {
  const absl::StatusOr<UniqueFd> fd = DescriptorOf(file);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<client::FdSocket> fds = ConnectFds();
  if (!fds.ok()) return fds.status();
  const absl::StatusOr<std::string> handle = fds->Deposit(FdKind::kMemory, file.label, fd->get());
  if (!handle.ok()) return handle.status();
  v1::RegisterMemoryRequest request;
  request.set_space(space_);
  request.set_space_uid(uid_);
  request.set_hva(file.hva.first().value());
  request.set_size(file.hva.size());
  request.set_offset(file.offset);
  request.set_fd_handle(*handle);
  request.set_label(file.label);
  const auto registered = connection_.RegisterMemory(request, {.timeout = kChangeTimeout});
  if (!registered.ok()) return registered.status();
  files_[MemoryId(registered->memory().memory_id())] = file;
  return absl::OkStatus();
}

absl::Status SpaceLink::ChangeMappings(const Step& step) {
  v1::UpdateRequest request;
  request.set_space(space_);
  request.set_space_uid(uid_);
  for (const MappingId id : step.unmap) {
    request.add_ops()->mutable_unmap()->set_mapping_id(id.value());
  }
  for (const GuestMapping& mapping : step.map) {
    v1::MappingSpec& spec = *request.add_ops()->mutable_map();
    spec.set_gpa(mapping.gpa.value());
    spec.set_hva(mapping.hva.value());
    spec.set_size(mapping.size);
    spec.set_access(static_cast<v1::Access>(mapping.access));
    spec.set_label(mapping.label);
  }
  return connection_.Update(request, {.timeout = kChangeTimeout}).status();
}

absl::Status SpaceLink::Remove() {
  if (uid_.empty()) return absl::OkStatus();
  v1::DeleteSpaceRequest request;
  request.set_space(space_);
  request.set_space_uid(uid_);
  request.set_force(true);
  return connection_.DeleteSpace(request, {.timeout = kLookTimeout}).status();
}

absl::StatusOr<client::FdSocket> SpaceLink::ConnectFds() const {
  return client::FdSocket::Connect(fd_socket_, kLookTimeout);
}

}  // namespace iovad::qemu
