#include "client/space_handle.h"

#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/connection.h"
#include "client/convert.h"
#include "client/error.h"
#include "client/mirror/mirror.h"
#include "client/mirror/mirror_runner.h"
#include "client/session.h"
#include "client/streams_impl.h"
#include "core/error.h"

namespace iovad {

using client::Connection;
using client::Read;
using client::ReadAll;
using client::Session;
using client::StrangeAnswer;
using client::Write;

namespace {

// Begins again when the server does not keep the revision of a listing any longer.
constexpr int kListings = 4;
constexpr uint32_t kPage = 10'000;

template <typename Response>
absl::StatusOr<SpaceInfo> SpaceOf(const absl::StatusOr<Response>& response, const char* call) {
  if (!response.ok()) return response.status();
  SpaceInfo info;
  if (!Read(response->space(), info)) return StrangeAnswer(call);
  return info;
}

}  // namespace

template <typename Request, typename Options>
Request SpaceHandle::Ask(const Options& options) const {
  Request request;
  request.set_space(identity_->name);
  if constexpr (requires { request.set_space_uid(identity_->uid); }) {
    request.set_space_uid(identity_->uid);
  }
  if constexpr (requires { options.expected_revision; }) {
    if (options.expected_revision.has_value()) {
      request.set_expected_revision(options.expected_revision->value());
    }
    request.set_request_id(session_->RequestId(options.request_id));
  }
  if constexpr (requires { options.validate_only; }) {
    request.set_validate_only(options.validate_only);
  }
  return request;
}

template <typename Request, typename Response>
absl::StatusOr<Response> SpaceHandle::Change(
    absl::StatusOr<Response> (Connection::*method)(const Request&, const client::CallOptions&),
    const Request& request, const PlanOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  absl::StatusOr<Response> response = session_->Call(method, request, deadline);
  if (response.ok() && !options.validate_only) {
    session_->AwaitMirrors(identity_->uid, Revision(response->revision()), deadline);
  }
  return response;
}

absl::Status SpaceHandle::CheckUid(const std::string& uid) const {
  if (uid == identity_->uid) return absl::OkStatus();
  return MakeError({.reason = Reason::kSpaceNotFound},
                   absl::StrCat("space '", identity_->name, "' of uid ", identity_->uid,
                                " is gone; the one of that name now has uid ", uid));
}

absl::Status SpaceHandle::StillThere(absl::Time deadline) const {
  v1::GetSpaceRequest request;
  request.set_space(identity_->name);
  const auto got = session_->Call(&Connection::GetSpace, request, deadline);
  return got.ok() ? CheckUid(got->space().uid()) : got.status();
}

// ---- The space --------------------------------------------------------------

absl::StatusOr<SpaceInfo> SpaceHandle::Get(const CallOptions& options) const {
  const auto request = Ask<v1::GetSpaceRequest>(options);
  const auto got =
      session_->Call(&Connection::GetSpace, request, session_->DeadlineOf(options.timeout));
  if (got.ok()) {
    if (absl::Status s = CheckUid(got->space().uid()); !s.ok()) return s;
  }
  return SpaceOf(got, "GetSpace");
}

absl::StatusOr<SpaceInfo> SpaceHandle::UpdateLabels(const std::map<std::string, std::string>& set,
                                                    absl::Span<const std::string> remove,
                                                    const ChangeOptions& options) const {
  auto request = Ask<v1::UpdateSpaceRequest>(options);
  request.mutable_labels()->insert(set.begin(), set.end());
  for (const std::string& key : remove) request.add_remove_labels(key);
  return SpaceOf(
      session_->Call(&Connection::UpdateSpace, request, session_->DeadlineOf(options.timeout)),
      "UpdateSpace");
}

absl::Status SpaceHandle::DeleteSpace(Delete what, const ChangeOptions& options) const {
  auto request = Ask<v1::DeleteSpaceRequest>(options);
  request.set_force(what == Delete::kWithMappings);
  return session_->Call(&Connection::DeleteSpace, request, session_->DeadlineOf(options.timeout))
      .status();
}

absl::StatusOr<SpaceInfo> SpaceHandle::Transfer(const std::string& owner_handle,
                                                const ChangeOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  return SpaceOf(
      Session::WithHandles(deadline,
                           [&]() -> absl::StatusOr<v1::TransferSpaceResponse> {
                             auto request = Ask<v1::TransferSpaceRequest>(options);
                             request.set_owner_handle(owner_handle);
                             if (owner_handle.empty()) {
                               absl::StatusOr<std::string> own = session_->Attest(deadline);
                               if (!own.ok()) return own.status();
                               request.set_owner_handle(*std::move(own));
                             }
                             return session_->Call(&Connection::TransferSpace, request, deadline);
                           }),
      "TransferSpace");
}

absl::StatusOr<SpaceInfo> SpaceHandle::AttachDevice(const AttachmentSpec& attachment,
                                                    const ChangeOptions& options) const {
  auto request = Ask<v1::AttachDeviceRequest>(options);
  request.set_device(attachment.device);
  request.set_asid(attachment.asid.value());
  for (const uint32_t group : attachment.groups) request.add_groups(group);
  return SpaceOf(
      session_->Call(&Connection::AttachDevice, request, session_->DeadlineOf(options.timeout)),
      "AttachDevice");
}

absl::StatusOr<SpaceInfo> SpaceHandle::DetachDevice(const std::string& device, Asid asid,
                                                    const ChangeOptions& options) const {
  auto request = Ask<v1::DetachDeviceRequest>(options);
  request.set_device(device);
  request.set_asid(asid.value());
  return SpaceOf(
      session_->Call(&Connection::DetachDevice, request, session_->DeadlineOf(options.timeout)),
      "DetachDevice");
}

// ---- Memory -----------------------------------------------------------------

absl::StatusOr<MemoryInfo> SpaceHandle::RegisterMemory(const MemorySpec& memory,
                                                       const ChangeOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  const auto registered =
      client::Session::WithHandles(deadline, [&]() -> absl::StatusOr<v1::RegisterMemoryResponse> {
        auto request = Ask<v1::RegisterMemoryRequest>(options);
        if (absl::Status s = session_->WriteMemory(memory, deadline, request); !s.ok()) return s;
        return session_->Call(&Connection::RegisterMemory, request, deadline);
      });
  if (!registered.ok()) return registered.status();
  MemoryInfo info;
  if (!Read(registered->memory(), info)) return StrangeAnswer("RegisterMemory");
  return info;
}

absl::Status SpaceHandle::UnregisterMemory(MemoryId id, const ChangeOptions& options) const {
  auto request = Ask<v1::UnregisterMemoryRequest>(options);
  request.set_memory_id(id.value());
  return session_
      ->Call(&Connection::UnregisterMemory, request, session_->DeadlineOf(options.timeout))
      .status();
}

absl::StatusOr<std::vector<MemoryInfo>> SpaceHandle::ListMemory(const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  const auto listed =
      session_->Call(&Connection::ListMemory, Ask<v1::ListMemoryRequest>(options), deadline);
  if (!listed.ok()) return listed.status();
  if (absl::Status s = StillThere(deadline); !s.ok()) return s;
  std::vector<MemoryInfo> all;
  if (!ReadAll(listed->memory(), all)) return StrangeAnswer("ListMemory");
  return all;
}

absl::StatusOr<UniqueFd> SpaceHandle::GetMemoryFd(MemoryId id, const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  return client::Session::WithHandles(deadline, [&]() -> absl::StatusOr<UniqueFd> {
    auto request = Ask<v1::GetMemoryHandleRequest>(options);
    request.set_memory_id(id.value());
    const auto handle = session_->Call(&Connection::GetMemoryHandle, request, deadline);
    if (!handle.ok()) return handle.status();
    if (absl::Status s = StillThere(deadline); !s.ok()) return s;
    auto got = session_->WithFds(
        deadline, [&](client::FdSocket& fds) { return fds.Withdraw(handle->fd_handle()); });
    if (!got.ok()) return got.status();
    return std::move(got->fd);
  });
}

// ---- Mappings ---------------------------------------------------------------

absl::StatusOr<Revised<Mapping>> SpaceHandle::Map(const MapSpec& spec,
                                                  const PlanOptions& options) const {
  auto request = Ask<v1::MapRequest>(options);
  Write(spec, *request.mutable_mapping());
  const auto mapped = Change(&Connection::Map, request, options);
  if (!mapped.ok()) return mapped.status();
  Revised<Mapping> result = {.value = {}, .revision = Revision(mapped->revision())};
  if (!Read(mapped->mapping(), result.value)) return StrangeAnswer("Map");
  return result;
}

absl::StatusOr<Revised<Unmapped>> SpaceHandle::Unmap(const UnmapSpec& spec,
                                                     const PlanOptions& options) const {
  auto request = Ask<v1::UnmapRequest>(options);
  Write(spec, *request.mutable_target());
  const auto unmapped = Change(&Connection::Unmap, request, options);
  if (!unmapped.ok()) return unmapped.status();
  Revised<Unmapped> result = {.value = {}, .revision = Revision(unmapped->revision())};
  if (!Read(unmapped->result(), result.value)) return StrangeAnswer("Unmap");
  return result;
}

absl::StatusOr<Revised<std::vector<OperationResult>>> SpaceHandle::Update(
    absl::Span<const Operation> operations, const PlanOptions& options) const {
  auto request = Ask<v1::UpdateRequest>(options);
  for (const Operation& operation : operations) Write(operation, *request.add_ops());
  const auto updated = Change(&Connection::Update, request, options);
  if (!updated.ok()) return updated.status();
  Revised<std::vector<OperationResult>> result = {.value = {},
                                                  .revision = Revision(updated->revision())};
  if (!ReadAll(updated->results(), result.value)) return StrangeAnswer("Update");
  return result;
}

std::unique_ptr<UpdateStream> SpaceHandle::StreamUpdates() const {
  v1::UpdateRequest start;
  start.set_space(identity_->name);
  start.set_space_uid(identity_->uid);
  return client::StreamUpdates(session_, std::move(start));
}

absl::StatusOr<Revised<Translations>> SpaceHandle::Translate(absl::Span<const Query> queries,
                                                             const CallOptions& options) const {
  auto request = Ask<v1::TranslateRequest>(options);
  for (const Query& query : queries) Write(query, *request.add_queries());
  const auto translated =
      session_->Call(&Connection::Translate, request, session_->DeadlineOf(options.timeout));
  if (!translated.ok()) return translated.status();
  Revised<Translations> result = {.value = {}, .revision = Revision(translated->revision())};
  if (!Read(*translated, result.value) || result.value.queries.size() != queries.size()) {
    return StrangeAnswer("Translate");
  }
  return result;
}

absl::StatusOr<Revised<std::vector<Mapping>>> SpaceHandle::ListMappings(
    const MappingFilter& filter, const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  auto request = Ask<v1::ListMappingsRequest>(options);
  request.set_page_size(kPage);
  if (filter.iova.has_value()) Write(*filter.iova, *request.mutable_iova());
  if (filter.kind.has_value()) request.set_kind(static_cast<v1::MappingKind>(*filter.kind));
  Revised<std::vector<Mapping>> result;
  for (int listing = 1; true;) {
    const auto page = session_->Call(&Connection::ListMappings, request, deadline);
    if (!page.ok()) {
      // The snapshot is gone, with the server that had it or for want of room.
      const bool expired = ReasonOf(page.status()) == Reason::kSnapshotExpired;
      if (!expired || listing++ == kListings) return page.status();
      result.value.clear();
      request.clear_page_token();
      continue;
    }
    result.revision = Revision(page->revision());
    if (!ReadAll(page->mappings(), result.value)) return StrangeAnswer("ListMappings");
    if (page->next_page_token().empty()) break;
    request.set_page_token(page->next_page_token());
  }
  if (absl::Status s = StillThere(deadline); !s.ok()) return s;
  return result;
}

std::unique_ptr<ChangeStream> SpaceHandle::Watch(Revision start) const {
  auto request = Ask<v1::WatchRequest>(CallOptions());
  request.set_start_revision(start.value());
  return client::WatchSpace(session_, request);
}

absl::StatusOr<std::unique_ptr<Mirror>> SpaceHandle::OpenMirror(
    const MirrorOptions& options) const {
  if (absl::Status s = session_->CheckProcess(); !s.ok()) return s;
  std::unique_ptr<Mirror> mirror(new Mirror(session_, identity_->name, identity_->uid, options));
  if (absl::Status s = mirror->runner_->Start(); !s.ok()) return s;
  session_->AddMirror(mirror->runner_);
  return mirror;
}

// ---- Shadow virtqueues --------------------------------------------------------

absl::StatusOr<Revised<std::vector<Svq>>> SpaceHandle::AllocSvqs(absl::Span<const SvqSpec> queues,
                                                                 const PlanOptions& options) const {
  auto request = Ask<v1::AllocSVQRequest>(options);
  for (const SvqSpec& queue : queues) Write(queue, *request.add_queues());
  const auto made = Change(&Connection::AllocSVQ, request, options);
  if (!made.ok()) return made.status();
  Revised<std::vector<Svq>> result = {.value = {}, .revision = Revision(made->revision())};
  if (!ReadAll(made->svqs(), result.value)) return StrangeAnswer("AllocSVQ");
  return result;
}

absl::StatusOr<Revised<Unmapped>> SpaceHandle::FreeSvqs(absl::Span<const SvqId> ids,
                                                        const PlanOptions& options) const {
  auto request = Ask<v1::FreeSVQRequest>(options);
  for (const SvqId id : ids) request.add_svq_ids(id.value());
  const auto freed = Change(&Connection::FreeSVQ, request, options);
  if (!freed.ok()) return freed.status();
  Revised<Unmapped> result = {.value = {}, .revision = Revision(freed->revision())};
  if (!Read(freed->result(), result.value)) return StrangeAnswer("FreeSVQ");
  return result;
}

absl::StatusOr<Revised<std::vector<Svq>>> SpaceHandle::ListSvqs(const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  const auto listed =
      session_->Call(&Connection::ListSVQs, Ask<v1::ListSVQsRequest>(options), deadline);
  if (!listed.ok()) return listed.status();
  if (absl::Status s = StillThere(deadline); !s.ok()) return s;
  Revised<std::vector<Svq>> result = {.value = {}, .revision = Revision(listed->revision())};
  if (!ReadAll(listed->svqs(), result.value)) return StrangeAnswer("ListSVQs");
  return result;
}

// ---- To another host, for people ------------------------------------------------

absl::Status SpaceHandle::Export(const BlockSink& sink) const {
  if (absl::Status s = session_->CheckProcess(); !s.ok()) return s;
  const auto stream =
      session_->connection().ExportSpace(Ask<v1::ExportSpaceRequest>(CallOptions()));
  v1::ExportSpaceResponse block;
  absl::Status status;
  bool whole = false;
  while (status.ok() && stream->Read(block)) {
    if (block.records_size() > 0) whole = block.records(block.records_size() - 1).has_trailer();
    status = sink(block);
  }
  if (!status.ok()) stream->Cancel();
  absl::Status end = client::ToCore(stream->Finish());
  if (!status.ok()) return status;
  if (end.ok() && !whole) return absl::DataLossError("the export has no trailer");
  return end;
}

absl::StatusOr<std::string> SpaceHandle::Dump(const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  auto dumped = session_->Call(&Connection::Dump, Ask<v1::DumpRequest>(options), deadline);
  if (!dumped.ok()) return dumped.status();
  if (absl::Status s = StillThere(deadline); !s.ok()) return s;
  return std::move(*dumped->mutable_text());
}

absl::StatusOr<ResolvedAddress> SpaceHandle::Resolve(const std::string& address, uint64_t size,
                                                     const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  auto request = Ask<v1::ResolveRequest>(options);
  request.set_address(address);
  request.set_size(size);
  const auto resolved = session_->Call(&Connection::Resolve, request, deadline);
  if (!resolved.ok()) return resolved.status();
  if (absl::Status s = StillThere(deadline); !s.ok()) return s;
  ResolvedAddress result;
  if (!Read(*resolved, result)) return StrangeAnswer("Resolve");
  return result;
}

}  // namespace iovad
