#include "server/debug_service.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "core/format.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/space_dump.h"

namespace iovad {
namespace {

constexpr size_t kMaxAliases = 100;
constexpr size_t kMaxPieces = 1000;

// "gpa:0x1000", "hva:…" or "iova:…", hexadecimal with 0x or decimal.
std::optional<Query> ParseAddress(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const std::string_view kind = text.substr(0, colon);
  std::string_view digits = text.substr(colon + 1);
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    digits.remove_prefix(2);
    base = 16;
  }
  uint64_t address = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), address, base);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) {
    return std::nullopt;
  }
  Query query;
  if (kind == "gpa") {
    query.address = Gpa(address);
  } else if (kind == "hva") {
    query.address = Hva(address);
  } else if (kind == "iova") {
    query.address = Iova(address);
  } else {
    return std::nullopt;
  }
  return query;
}

}  // namespace

grpc::ServerUnaryReactor* DebugService::GetServerInfo(grpc::CallbackServerContext* rpc,
                                                      const v1::GetServerInfoRequest* /*request*/,
                                                      v1::GetServerInfoResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&] {
    response->set_version(std::string(Version()));
    const Limits& limits = context_.config.limits;
    auto& out = *response->mutable_limits();
    out["max_mappings_per_space"] = limits.max_mappings_per_space;
    out["max_spaces"] = limits.max_spaces;
    out["max_ops_per_request"] = limits.max_ops_per_request;
    out["max_message_bytes"] = limits.max_message_bytes;
    out["max_queries_per_translate"] = limits.max_queries_per_translate;
    out["max_watchers"] = limits.max_watchers;
    out["max_connections"] = limits.max_connections;
    out["max_open_snapshots"] = limits.max_open_snapshots;
    out["history_revisions"] = limits.history_revisions;
    out["max_request_ids"] = limits.max_request_ids;
    out["max_fd_handles"] = limits.max_fd_handles;
    out["max_fd_handles_per_user"] = limits.max_fd_handles_per_user;
    out["fd_handle_ttl_seconds"] = static_cast<uint64_t>(limits.fd_handle_ttl.count());
    out["owner_grace_seconds"] = static_cast<uint64_t>(context_.config.owner_grace.count());
    for (const char* feature : {"simulated-devices", "watch-resume", "export-import"}) {
      response->add_features(feature);
    }
    response->set_store(context_.state.persistent() ? context_.config.state_dir : "ephemeral");
    Write(context_.start_time, *response->mutable_start_time());
    response->set_pid(static_cast<uint32_t>(getpid()));
    response->set_epoch(context_.epoch);
    response->set_fd_socket(FdSocketPath(context_.config));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DebugService::Dump(grpc::CallbackServerContext* rpc,
                                             const v1::DumpRequest* request,
                                             v1::DumpResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&]() -> absl::Status {
    const absl::StatusOr<std::shared_ptr<Space>> space =
        context_.registry.FindSpace(request->space(), "");
    if (!space.ok()) return space.status();
    constexpr uint64_t kEnvelope = 64;
    const uint64_t limit = context_.config.limits.max_message_bytes;
    response->set_text(DumpSpace(**space, limit > kEnvelope ? limit - kEnvelope : 0));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DebugService::Resolve(grpc::CallbackServerContext* rpc,
                                                const v1::ResolveRequest* request,
                                                v1::ResolveResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&]() -> absl::Status {
    const absl::StatusOr<std::shared_ptr<Space>> space =
        context_.registry.FindSpace(request->space(), "");
    if (!space.ok()) return space.status();
    if (request->address().empty()) {
      return MakeError(
          {.reason = Reason::kMissingField},
          absl::StrCat((*space)->prefix(), "address is missing: gpa:0x…, hva:0x… or iova:0x…"));
    }
    std::optional<Query> query = ParseAddress(request->address());
    if (!query.has_value()) {
      return MakeError(
          {.reason = Reason::kInvalidValue},
          absl::StrCat((*space)->prefix(), "address '", request->address().substr(0, 64),
                       "' is none of gpa:0x…, hva:0x…, iova:0x…"));
    }
    query->size = request->size() == 0 ? 1 : request->size();
    return (*space)->Read([&](const AddressSpace& core) {
      absl::StatusOr<Translations> found =
          core.Translate(absl::MakeConstSpan(&*query, 1), kMaxPieces);
      if (!found.ok()) return found.status();
      response->set_revision(core.revision().value());
      for (const Segment& segment : found->segments) {
        v1::ResolveResponse::Piece& piece = *response->add_pieces();
        piece.set_iova(Hex(segment.iova));
        piece.set_hva(Hex(segment.hva));
        if (segment.gpa.has_value()) piece.set_gpa(Hex(*segment.gpa));
        piece.set_size(Hex(segment.size));
        Write(*core.FindById(segment.mapping_id), *piece.mutable_mapping());
      }
      const Translation& translation = found->queries.front();
      if (translation.fault.has_value()) {
        response->set_fault(absl::StrCat(
            translation.fault->kind == FaultKind::kMiss ? "nothing is mapped at " : "no access to ",
            Hex(translation.fault->address)));
      }
      response->set_alias_count(translation.alias_count);
      if (found->segments.empty()) return absl::OkStatus();
      std::vector<Mapping> aliases;
      const Hva hva = found->segments.front().hva;
      core.ForEachByHva(HvaRange(hva, hva), [&](const Mapping& m) {
        aliases.push_back(m);
        return aliases.size() < kMaxAliases;
      });
      std::sort(aliases.begin(), aliases.end(), [](const Mapping& a, const Mapping& b) {
        return a.iova().first() < b.iova().first();
      });
      for (const Mapping& m : aliases) Write(m, *response->add_aliases());
      return absl::OkStatus();
    });
  });
}

grpc::ServerUnaryReactor* DebugService::Stats(grpc::CallbackServerContext* rpc,
                                              const v1::StatsRequest* /*request*/,
                                              v1::StatsResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&] {
    constexpr size_t kShown = 1000;
    response->set_text(FormatStats({.uptime = absl::Now() - context_.start_time,
                                    .requests = context_.gate.running(),
                                    .watchers = context_.watchers.load(std::memory_order_relaxed)},
                                   context_.registry.Spaces("", kShown),
                                   context_.registry.Devices("", kShown),
                                   *context_.registry.hub()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DebugService::DeviceLog(grpc::CallbackServerContext* rpc,
                                                  const v1::DeviceLogRequest* request,
                                                  v1::DeviceLogResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&]() -> absl::Status {
    const absl::StatusOr<std::shared_ptr<Device>> device =
        context_.registry.FindDevice(request->device());
    if (!device.ok()) return device.status();
    const DeviceLog::Excerpt excerpt = (*device)->log().Last(request->last());
    for (const iovad::DeviceLog::Entry& entry : excerpt.entries) {
      v1::DeviceLogEntry& out = *response->add_entries();
      out.set_sequence(entry.sequence);
      Write(entry.time, *out.mutable_time());
      const iovad::DeviceLog::Message& message = entry.message;
      out.set_type(static_cast<v1::IotlbMessageType>(message.message));
      out.set_asid(entry.asid.value());
      const bool update = message.message == IotlbMessage::kUpdate;
      if (update || message.message == IotlbMessage::kInvalidate) {
        out.set_iova_first(Hex(message.iova.first()));
        out.set_iova_last(Hex(message.iova.last()));
      }
      if (update) {
        out.set_uaddr(Hex(message.uaddr));
        out.set_access(static_cast<v1::Access>(message.access));
      }
      out.set_os_errno(message.os_errno);
      out.set_space(entry.space);
      out.set_batch(entry.batch);
      out.set_undo(message.undo);
    }
    response->set_dropped(excerpt.dropped);
    return absl::OkStatus();
  });
}

}  // namespace iovad
