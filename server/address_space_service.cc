#include "server/address_space_service.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/attachment_change.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/list_by_name.h"
#include "server/mapping_requests.h"
#include "server/memory_requests.h"
#include "server/point_groups.h"
#include "server/raw_call.h"
#include "server/space_options.h"
#include "server/space_removal.h"
#include "server/update_stream.h"
#include "server/watch_reactor.h"

namespace iovad {
namespace {

std::optional<Revision> Expected(const auto& request) {
  if (!request.has_expected_revision()) return std::nullopt;
  return Revision(request.expected_revision());
}

// Serves a request that changes something about a space other than its mappings.
// `act()` is KeptChange::Do and prepares the response, in its turn; `answer(status)` is
// called once. The exchange lives until then.
template <typename Request, typename Response, typename Act, typename Answer>
void SubmitKept(const std::shared_ptr<Space>& space, const std::shared_ptr<Repeats>& repeats,
                const Request& request, const Response& response, KeptChange::Frees frees, Act act,
                Answer answer) {
  auto change = std::make_unique<KeptChange>(
      std::move(act),
      [repeats, &response, number = space->number()](store::WriteBatch& batch) {
        repeats->Keep(number, response, batch);
      },
      frees,
      [repeats, &response, answer = std::move(answer)](const absl::Status& status) {
        repeats->End(status, response);
        answer(status);
      });
  change->expected_revision = Expected(request);
  space->Submit(std::move(change));
}

}  // namespace

template <typename Request, typename F>
grpc::ServerUnaryReactor* AddressSpaceService::ServeSpace(grpc::CallbackServerContext* rpc,
                                                          const Request& request, Role needed,
                                                          F serve) {
  return Serve(rpc, context_.gate, needed, [&]() -> absl::Status {
    std::string uid;
    if constexpr (requires { request.space_uid(); }) uid = request.space_uid();
    const absl::StatusOr<std::shared_ptr<Space>> space =
        context_.registry.FindSpace(request.space(), uid);
    return space.ok() ? serve(**space) : space.status();
  });
}

template <typename Request, typename Response, typename F>
grpc::ServerUnaryReactor* AddressSpaceService::ServeKept(grpc::CallbackServerContext* rpc,
                                                         const char* method, const Request& request,
                                                         Response& response,
                                                         KeptChange::Frees frees, F prepare) {
  const Call call(rpc, context_.gate, Role::kOperator);
  const auto answer = [&](const absl::Status& status) {
    call.Finish(status);
    return call.reactor();
  };
  if (!call.status().ok()) return answer(call.status());
  const absl::StatusOr<std::shared_ptr<Space>> space =
      context_.registry.FindSpace(request.space(), request.space_uid());
  if (!space.ok()) return answer(space.status());
  auto repeats = std::make_shared<Repeats>((*space)->request_log(), request.request_id(), method,
                                           request, response, (*space)->prefix());
  if (!repeats->status().ok() || repeats->replayed()) return answer(repeats->status());
  const absl::Status current = (*space)->CheckRevision(Expected(request));
  absl::StatusOr<KeptChange::Do> act =
      current.ok() ? prepare(*space) : absl::StatusOr<KeptChange::Do>(current);
  if (!act.ok()) {
    repeats->End(act.status(), response);
    return answer(act.status());
  }
  SubmitKept(*space, repeats, request, response, frees, *std::move(act),
             [call](const absl::Status& end) { call.Finish(end); });
  return call.reactor();
}

template <typename Request, typename Response>
grpc::ServerUnaryReactor* AddressSpaceService::SubmitTo(
    void (*submit)(const Registry&, const Request&, Response&,
                   std::function<void(const absl::Status&)>),
    grpc::CallbackServerContext* rpc, const Request* request, Response* response) {
  const Call call(rpc, context_.gate, Role::kOperator);
  if (call.status().ok()) {
    submit(context_.registry, *request, *response,
           [call](const absl::Status& status) { call.Finish(status); });
  } else {
    call.Finish(call.status());
  }
  return call.reactor();
}

// ---- Spaces -----------------------------------------------------------------

grpc::ServerUnaryReactor* AddressSpaceService::CreateSpace(grpc::CallbackServerContext* rpc,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return ServeRaw<v1::CreateSpaceRequest, v1::CreateSpaceResponse>(
      context_, rpc, request, response, [this](const auto& exchange, auto answer) {
        const v1::CreateSpaceRequest& req = exchange->request;
        Registry& registry = context_.registry;
        auto repeats = std::make_shared<Repeats>(
            registry.request_log(), req.request_id(), "CreateSpace", req, exchange->response,
            absl::StrCat("space '", req.space().substr(0, 64), "': "));
        if (!repeats->status().ok() || repeats->replayed()) return answer(repeats->status());
        const auto end = [exchange, repeats, answer](const absl::Status& status) {
          repeats->End(status, exchange->response);
          answer(status);
        };
        SpaceOptions options;
        Space::Identity identity;
        absl::Status parsed = ParseSpace(req, context_.config, options, identity);
        // Before the handle is taken, which is good for TransferSpace then.
        if (parsed.ok()) parsed = registry.CheckNewSpace(req.space());
        if (!parsed.ok()) return end(parsed);
        if (!req.owner_handle().empty()) {
          auto owner = TakeOwner(req.owner_handle(), context_.handles,
                                 absl::StrCat("space '", req.space(), "': "));
          if (!owner.ok()) return end(owner.status());
          identity.ownership.owner = *std::move(owner);
        }
        std::vector<Registry::AttachTo> attach_to;
        for (const v1::AttachmentSpec& spec : req.attachments()) {
          attach_to.push_back({.device = spec.device(),
                               .asid = Asid(spec.asid()),
                               .groups = {spec.groups().begin(), spec.groups().end()}});
        }
        const absl::StatusOr<std::shared_ptr<Space>> made =
            registry.CreateSpace(std::move(options), std::move(identity), attach_to);
        if (!made.ok()) return end(made.status());
        PointGroups(registry, req.space(), attach_to,
                    [this, &registry, exchange, repeats, end, space = *made](
                        const absl::Status& pointed, const std::function<void()>& undo) {
                      if (!pointed.ok()) {
                        registry.RemoveSpace(*space);
                        return end(pointed);
                      }
                      space->Describe(*exchange->response.mutable_space());
                      space->Keep(
                          [&](store::WriteBatch& batch) {
                            repeats->Keep(store::kServer, exchange->response, batch);
                          },
                          [this, &registry, end, space, undo](const absl::Status& kept) {
                            if (kept.ok()) {
                              registry.AddSpace(space);
                              context_.owners.Watch(space);
                            } else {
                              undo();
                              registry.RemoveSpace(*space);
                            }
                            end(kept);
                          });
                    });
      });
}

grpc::ServerUnaryReactor* AddressSpaceService::GetSpace(grpc::CallbackServerContext* rpc,
                                                        const v1::GetSpaceRequest* request,
                                                        v1::GetSpaceResponse* response) {
  return ServeSpace(rpc, *request, Role::kViewer, [&](Space& space) {
    space.Describe(*response->mutable_space());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AddressSpaceService::ListSpaces(grpc::CallbackServerContext* rpc,
                                                          const v1::ListSpacesRequest* request,
                                                          v1::ListSpacesResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&] {
    return ListByName(
        *request, context_.config.limits.max_message_bytes,
        [&](const std::string& after, size_t most) {
          return context_.registry.Spaces(after, most);
        },
        [&](Space& space) { space.Describe(*response->add_spaces()); },
        [&] { response->mutable_spaces()->RemoveLast(); }, *response);
  });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* AddressSpaceService::WatchSpaces(
    grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request) {
  return StartWatchSpaces(context_, rpc, *request);
}

grpc::ServerUnaryReactor* AddressSpaceService::UpdateSpace(grpc::CallbackServerContext* rpc,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return ServeRaw<v1::UpdateSpaceRequest, v1::UpdateSpaceResponse>(
      context_, rpc, request, response, [this](const auto& exchange, auto answer) {
        const v1::UpdateSpaceRequest& req = exchange->request;
        const absl::StatusOr<std::shared_ptr<Space>> space =
            context_.registry.FindSpace(req.space(), req.space_uid());
        if (!space.ok()) return answer(space.status());
        auto repeats =
            std::make_shared<Repeats>((*space)->request_log(), req.request_id(), "UpdateSpace", req,
                                      exchange->response, (*space)->prefix());
        if (!repeats->status().ok() || repeats->replayed()) return answer(repeats->status());
        const auto act = [exchange, space = *space]() -> absl::StatusOr<KeptChange::Undo> {
          const Labels before = space->labels();
          Labels labels = before;
          for (const std::string& key : exchange->request.remove_labels()) labels.erase(key);
          for (const auto& [key, value] : exchange->request.labels()) {
            labels.insert_or_assign(key, value);
          }
          if (absl::Status s = CheckLabels(labels, space->prefix()); !s.ok()) return s;
          space->SetLabels(std::move(labels));
          space->Describe(*exchange->response.mutable_space());
          return [space, before] { space->SetLabels(before); };
        };
        SubmitKept(*space, repeats, req, exchange->response, KeptChange::Frees::kNo, act,
                   [exchange, answer](const absl::Status& status) { answer(status); });
      });
}

grpc::ServerUnaryReactor* AddressSpaceService::DeleteSpace(grpc::CallbackServerContext* rpc,
                                                           const v1::DeleteSpaceRequest* request,
                                                           v1::DeleteSpaceResponse* response) {
  const Call call(rpc, context_.gate, Role::kOperator);
  const absl::Status& status = call.status();
  if (!status.ok()) {
    call.Finish(status);
    return call.reactor();
  }
  Registry& registry = context_.registry;
  // A repeat finds no space any more, so the answers of deletions are the
  // server's to remember.
  auto repeats = std::make_shared<Repeats>(
      registry.request_log(), request->request_id(), "DeleteSpace", *request, *response,
      absl::StrCat("space '", request->space().substr(0, 64), "': "));
  if (!repeats->status().ok() || repeats->replayed()) {
    call.Finish(repeats->status());
    return call.reactor();
  }
  const absl::StatusOr<std::shared_ptr<Space>> space =
      registry.FindSpace(request->space(), request->space_uid());
  if (!space.ok()) {
    repeats->End(space.status(), *response);
    call.Finish(space.status());
    return call.reactor();
  }
  RemoveSpace(
      registry, *space,
      {.force = request->force(),
       .expected_revision = Expected(*request),
       .more = [repeats, response](
                   store::WriteBatch& batch) { repeats->Keep(store::kServer, *response, batch); }},
      [call, repeats, response](const absl::Status& removed) {
        repeats->End(removed, *response);
        call.Finish(removed);
      });
  return call.reactor();
}

grpc::ServerUnaryReactor* AddressSpaceService::TransferSpace(grpc::CallbackServerContext* rpc,
                                                             const grpc::ByteBuffer* request,
                                                             grpc::ByteBuffer* response) {
  return ServeRaw<v1::TransferSpaceRequest, v1::TransferSpaceResponse>(
      context_, rpc, request, response, [this, rpc](const auto& exchange, auto answer) {
        const v1::TransferSpaceRequest& req = exchange->request;
        const absl::StatusOr<std::shared_ptr<Space>> space =
            context_.registry.FindSpace(req.space(), req.space_uid());
        if (!space.ok()) return answer(space.status());
        auto repeats =
            std::make_shared<Repeats>((*space)->request_log(), req.request_id(), "TransferSpace",
                                      req, exchange->response, (*space)->prefix());
        if (!repeats->status().ok() || repeats->replayed()) return answer(repeats->status());
        const auto refuse = [&](const absl::Status& why) {
          repeats->End(why, exchange->response);
          answer(why);
        };
        absl::Status status = AuthorizeTransfer(*rpc, (*space)->ownership().owner.get());
        if (status.ok()) status = (*space)->CheckRevision(Expected(req));
        if (!status.ok()) return refuse(status);
        // Now, and not in its turn: the handle is not good for ever.
        auto owner = TakeOwner(req.owner_handle(), context_.handles, (*space)->prefix());
        if (!owner.ok()) return refuse(owner.status());
        SubmitKept(*space, repeats, req, exchange->response, KeptChange::Frees::kNo,
                   context_.owners.Transfer(*space, *std::move(owner), exchange->response),
                   [exchange, answer](const absl::Status& transferred) { answer(transferred); });
      });
}

// ---- Attachments ------------------------------------------------------------

namespace {

// Serves AttachDevice and DetachDevice: `submit(space, finished, keep)` starts the
// change, which prepares and stores the answer by `keep` and calls `finished` with its
// status.
template <typename Exchange, typename AnswerF, typename F>
void ServeAttachment(Registry& registry, const char* method, const std::shared_ptr<Exchange>& x,
                     AnswerF answer, F submit) {
  const auto& request = x->request;
  const absl::StatusOr<std::shared_ptr<Space>> space =
      registry.FindSpace(request.space(), request.space_uid());
  if (!space.ok()) return answer(space.status());
  auto repeats = std::make_shared<Repeats>((*space)->request_log(), request.request_id(), method,
                                           request, x->response, (*space)->prefix());
  if (!repeats->status().ok() || repeats->replayed()) return answer(repeats->status());
  submit(
      *space,
      [x, answer, repeats](const absl::Status& status) {
        repeats->End(status, x->response);
        answer(status);
      },
      [x, repeats, number = (*space)->number()](const v1::Space& after, store::WriteBatch& batch) {
        *x->response.mutable_space() = after;
        repeats->Keep(number, x->response, batch);
      });
}

}  // namespace

grpc::ServerUnaryReactor* AddressSpaceService::AttachDevice(grpc::CallbackServerContext* rpc,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return ServeRaw<v1::AttachDeviceRequest, v1::AttachDeviceResponse>(
      context_, rpc, request, response, [this](const auto& exchange, auto answer) {
        Registry& registry = context_.registry;
        ServeAttachment(
            registry, "AttachDevice", exchange, answer,
            [&](const std::shared_ptr<Space>& space, const AttachmentChange::Finished& finished,
                AttachmentChange::KeepAnswer keep) {
              const v1::AttachDeviceRequest& req = exchange->request;
              const std::vector<uint32_t> groups(req.groups().begin(), req.groups().end());
              const absl::StatusOr<PushTarget> target = registry.Claim(
                  *space, {.device = req.device(), .asid = Asid(req.asid()), .groups = groups});
              auto change = std::make_unique<AttachChange>(
                  target, groups,
                  [&registry, target, finished](const absl::Status& status) {
                    if (target.ok() && !status.ok()) registry.Release(*target);
                    finished(status);
                  },
                  std::move(keep));
              change->expected_revision = Expected(req);
              space->Submit(std::move(change));
            });
      });
}

grpc::ServerUnaryReactor* AddressSpaceService::DetachDevice(grpc::CallbackServerContext* rpc,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return ServeRaw<v1::DetachDeviceRequest, v1::DetachDeviceResponse>(
      context_, rpc, request, response, [this](const auto& exchange, auto answer) {
        Registry& registry = context_.registry;
        ServeAttachment(
            registry, "DetachDevice", exchange, answer,
            [&](const std::shared_ptr<Space>& space, const AttachmentChange::Finished& finished,
                AttachmentChange::KeepAnswer keep) {
              const v1::DetachDeviceRequest& req = exchange->request;
              const absl::StatusOr<std::shared_ptr<Device>> device =
                  registry.FindDevice(req.device());
              absl::StatusOr<PushTarget> target = PushTarget{.asid = Asid(req.asid())};
              if (device.ok()) {
                target->device = *device;
              } else {
                target = device.status();
              }
              auto change = std::make_unique<DetachChange>(
                  target,
                  [&registry, target, finished](const absl::Status& status) {
                    if (status.ok()) registry.Release(*target);
                    finished(status);
                  },
                  std::move(keep));
              change->expected_revision = Expected(req);
              space->Submit(std::move(change));
            });
      });
}

// ---- Memory -------------------------------------------------------------------

grpc::ServerUnaryReactor* AddressSpaceService::RegisterMemory(
    grpc::CallbackServerContext* rpc, const v1::RegisterMemoryRequest* request,
    v1::RegisterMemoryResponse* response) {
  return ServeKept(
      rpc, "RegisterMemory", *request, *response, KeptChange::Frees::kNo,
      [&](const std::shared_ptr<Space>& space) -> absl::StatusOr<KeptChange::Do> {
        // Now, and not in its turn: the handle is not good for ever.
        absl::StatusOr<RegisteredMemory> found = FindMemory(context_, *space, *request);
        if (!found.ok()) return found.status();
        return [space, response, found = *std::move(found)]() -> absl::StatusOr<KeptChange::Undo> {
          const std::shared_ptr<const MemoryMap> before = space->memory();
          const absl::StatusOr<RegisteredMemory> added = space->AddMemory(found);
          if (!added.ok()) return added.status();
          Write(*space, *added, *response->mutable_memory());
          return [space, id = added->id, before] {
            const RegisteredMemory* missing = before->FindById(id);
            space->RestoreMemory(id, missing == nullptr ? std::nullopt : std::optional(*missing));
          };
        };
      });
}

grpc::ServerUnaryReactor* AddressSpaceService::UnregisterMemory(
    grpc::CallbackServerContext* rpc, const v1::UnregisterMemoryRequest* request,
    v1::UnregisterMemoryResponse* response) {
  return ServeKept(rpc, "UnregisterMemory", *request, *response, KeptChange::Frees::kYes,
                   [&](const std::shared_ptr<Space>& space) -> absl::StatusOr<KeptChange::Do> {
                     const MemoryId id(request->memory_id());
                     return [space, id]() -> absl::StatusOr<KeptChange::Undo> {
                       const absl::StatusOr<RegisteredMemory> removed = space->RemoveMemory(id);
                       if (!removed.ok()) return removed.status();
                       return [space, id, before = *removed] { space->RestoreMemory(id, before); };
                     };
                   });
}

grpc::ServerUnaryReactor* AddressSpaceService::ListMemory(grpc::CallbackServerContext* rpc,
                                                          const v1::ListMemoryRequest* request,
                                                          v1::ListMemoryResponse* response) {
  return ServeSpace(rpc, *request, Role::kViewer, [&](Space& space) {
    iovad::ListMemory(space, *response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AddressSpaceService::GetMemoryHandle(
    grpc::CallbackServerContext* rpc, const v1::GetMemoryHandleRequest* request,
    v1::GetMemoryHandleResponse* response) {
  return ServeSpace(rpc, *request, Role::kOperator, [&](Space& space) {
    return iovad::GetMemoryHandle(context_, space, *request, *response);
  });
}

// ---- Mappings -----------------------------------------------------------------

grpc::ServerUnaryReactor* AddressSpaceService::Map(grpc::CallbackServerContext* rpc,
                                                   const v1::MapRequest* request,
                                                   v1::MapResponse* response) {
  return SubmitTo(SubmitMap, rpc, request, response);
}

grpc::ServerUnaryReactor* AddressSpaceService::Unmap(grpc::CallbackServerContext* rpc,
                                                     const v1::UnmapRequest* request,
                                                     v1::UnmapResponse* response) {
  return SubmitTo(SubmitUnmap, rpc, request, response);
}

grpc::ServerUnaryReactor* AddressSpaceService::Update(grpc::CallbackServerContext* rpc,
                                                      const v1::UpdateRequest* request,
                                                      v1::UpdateResponse* response) {
  return SubmitTo(SubmitUpdate, rpc, request, response);
}

grpc::ServerBidiReactor<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>*
AddressSpaceService::StreamUpdates(grpc::CallbackServerContext* rpc) {
  return StartUpdateStream(context_, rpc);
}

grpc::ServerUnaryReactor* AddressSpaceService::Translate(grpc::CallbackServerContext* rpc,
                                                         const v1::TranslateRequest* request,
                                                         v1::TranslateResponse* response) {
  return ServeSpace(rpc, *request, Role::kViewer, [&](Space& space) -> absl::Status {
    const Limits& limits = context_.config.limits;
    const auto count = static_cast<size_t>(request->queries_size());
    if (count > limits.max_queries_per_translate) {
      return MakeError({.reason = Reason::kTooManyOps,
                        .limit = limits.max_queries_per_translate,
                        .needed = count},
                       absl::StrCat(space.prefix(), count, " queries in one request, of ",
                                    limits.max_queries_per_translate, " that there may be"));
    }
    std::vector<Query> queries(count);
    for (size_t i = 0; i < count; ++i) {
      absl::Status s =
          ParseQuery(request->queries(static_cast<int>(i)), space.prefix(), queries[i]);
      if (!s.ok()) return WithOpIndex(s, static_cast<uint32_t>(i));
    }
    // The most that a segment, and a query besides its segments, take on the wire.
    constexpr uint64_t kSegmentBytes = 64;
    constexpr uint64_t kQueryBytes = 32;
    const uint64_t fixed = std::min(limits.max_message_bytes, count * kQueryBytes);
    const uint64_t max_segments = (limits.max_message_bytes - fixed) / kSegmentBytes;
    absl::StatusOr<Translations> translations = space.Read([&](const AddressSpace& core) {
      response->set_revision(core.revision().value());
      return core.Translate(queries, max_segments);
    });
    if (translations.ok()) Write(*translations, *response);
    return translations.status();
  });
}

grpc::ServerUnaryReactor* AddressSpaceService::AllocSVQ(grpc::CallbackServerContext* rpc,
                                                        const v1::AllocSVQRequest* request,
                                                        v1::AllocSVQResponse* response) {
  const Call call(rpc, context_.gate, Role::kOperator);
  if (call.status().ok()) {
    SubmitAllocSvq(context_, *request, *response,
                   [call](const absl::Status& status) { call.Finish(status); });
  } else {
    call.Finish(call.status());
  }
  return call.reactor();
}

grpc::ServerUnaryReactor* AddressSpaceService::FreeSVQ(grpc::CallbackServerContext* rpc,
                                                       const v1::FreeSVQRequest* request,
                                                       v1::FreeSVQResponse* response) {
  return SubmitTo(SubmitFreeSvq, rpc, request, response);
}

grpc::ServerUnaryReactor* AddressSpaceService::ListSVQs(grpc::CallbackServerContext* rpc,
                                                        const v1::ListSVQsRequest* request,
                                                        v1::ListSVQsResponse* response) {
  return ServeSpace(rpc, *request, Role::kViewer, [&](Space& space) -> absl::Status {
    space.Read([&](const AddressSpace& core) {
      response->set_revision(core.revision().value());
      for (const Svq& svq : core.Svqs()) Write(svq, Tentative::kNo, *response->add_svqs());
    });
    const uint64_t limit = context_.config.limits.max_message_bytes;
    const uint64_t needed = response->ByteSizeLong();
    if (needed <= limit) return absl::OkStatus();
    return MakeError({.reason = Reason::kTooManyOps, .limit = limit, .needed = needed},
                     absl::StrCat(space.prefix(), "the answer would have ", needed,
                                  " bytes; list the mappings instead"));
  });
}

grpc::ServerUnaryReactor* AddressSpaceService::ListMappings(grpc::CallbackServerContext* rpc,
                                                            const v1::ListMappingsRequest* request,
                                                            v1::ListMappingsResponse* response) {
  return ServeSpace(rpc, *request, Role::kViewer,
                    [&](Space& space) { return space.ListMappings(*request, *response); });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* AddressSpaceService::Watch(
    grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request) {
  return StartWatch(context_, rpc, *request);
}

}  // namespace iovad
