#include "client/client.h"

#include <utility>

#include "absl/time/clock.h"
#include "client/connection.h"
#include "client/convert.h"
#include "client/error.h"
#include "client/session.h"
#include "client/streams_impl.h"

namespace iovad {

using client::Connection;
using client::Read;
using client::ReadAll;
using client::Session;
using client::StrangeAnswer;
using client::Write;

absl::StatusOr<Client> Client::Connect(std::string_view address, const ClientOptions& options) {
  absl::StatusOr<std::shared_ptr<Session>> session = Session::Open(address, options);
  if (!session.ok()) return session.status();
  return Client(*std::move(session));
}

absl::Status Client::WaitUntilServing(const CallOptions& options) const {
  if (absl::Status s = session_->CheckProcess(); !s.ok()) return s;
  return session_->connection().WaitUntilServing(session_->DeadlineOf(options.timeout) -
                                                 absl::Now());
}

absl::Status Client::CheckProcess() const { return session_->CheckProcess(); }

client::Connection& Client::connection() const { return session_->connection(); }

// ---- Spaces -------------------------------------------------------------------

absl::StatusOr<SpaceHandle> Client::CreateSpace(const SpaceSpec& spec,
                                                const RequestOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  const auto made =
      Session::WithHandles(deadline, [&]() -> absl::StatusOr<v1::CreateSpaceResponse> {
        v1::CreateSpaceRequest request;
        request.set_request_id(session_->RequestId(options.request_id));
        Write(spec, request);
        if (spec.lifetime == Lifetime::kOwnerProcess && spec.owner_handle.empty()) {
          absl::StatusOr<std::string> owner = session_->Attest(deadline);
          if (!owner.ok()) return owner.status();
          request.set_owner_handle(*std::move(owner));
        }
        return session_->Call(&Connection::CreateSpace, request, deadline);
      });
  if (!made.ok()) return made.status();
  return SpaceHandle(session_, made->space().name(), made->space().uid());
}

absl::StatusOr<SpaceHandle> Client::OpenSpace(const std::string& name, const std::string& uid,
                                              const CallOptions& options) const {
  v1::GetSpaceRequest request;
  request.set_space(name);
  const auto got =
      session_->Call(&Connection::GetSpace, request, session_->DeadlineOf(options.timeout));
  if (!got.ok()) return got.status();
  SpaceHandle space(session_, name, uid.empty() ? got->space().uid() : uid);
  if (absl::Status s = space.CheckUid(got->space().uid()); !s.ok()) return s;
  return space;
}

absl::StatusOr<std::vector<SpaceInfo>> Client::ListSpaces(const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  std::vector<SpaceInfo> all;
  v1::ListSpacesRequest request;
  do {
    const auto page = session_->Call(&Connection::ListSpaces, request, deadline);
    if (!page.ok()) return page.status();
    if (!ReadAll(page->spaces(), all)) return StrangeAnswer("ListSpaces");
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return all;
}

std::unique_ptr<SpacesStream> Client::WatchSpaces() const { return client::WatchSpaces(session_); }

absl::StatusOr<Client::Imported> Client::Import(const ImportSpec& spec, const NextBlock& next,
                                                const OnProgress& progress,
                                                const RequestOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  v1::ImportSpaceRequest message;
  v1::ImportHeader& header = *message.mutable_header();
  header.set_request_id(session_->RequestId(options.request_id));
  Write(spec, header);
  for (const MemorySpec& memory : spec.memories) {
    if (absl::Status s = session_->WriteMemory(memory, deadline, *header.add_memories()); !s.ok()) {
      return s;
    }
  }
  if (absl::Status s = session_->CheckProcess(); !s.ok()) return s;
  const auto stream = session_->connection().ImportSpace();
  // A broken stream says why when it is finished.
  absl::Status given;
  while (given.ok() && stream->Write(message)) {
    const absl::StatusOr<bool> more = next(*message.mutable_records());
    given = more.status();
    if (!more.ok() || *more) continue;
    stream->WritesDone();
    break;
  }
  if (!given.ok()) {
    stream->Cancel();
    (void)stream->Finish();
    return given;
  }
  v1::ImportSpaceResponse response;
  v1::ImportResult result;
  while (stream->Read(response)) {
    if (response.has_result()) result.Swap(response.mutable_result());
    if (response.has_progress() && progress) {
      progress({.mapped_bytes = response.progress().mapped_bytes(),
                .total_bytes = response.progress().total_bytes(),
                .mappings = response.progress().mappings()});
    }
  }
  if (absl::Status s = stream->Finish(); !s.ok()) return client::ToCore(s);
  Imported imported = {.space = SpaceHandle(session_, result.space().name(), result.space().uid()),
                       .svqs = {},
                       .skipped = {},
                       .skipped_count = result.skipped_count()};
  if (!result.has_space() || !ReadAll(result.svqs(), imported.svqs) ||
      !ReadAll(result.skipped(), imported.skipped)) {
    return StrangeAnswer("ImportSpace");
  }
  return imported;
}

// ---- Devices ------------------------------------------------------------------

namespace {

template <typename Response>
absl::StatusOr<DeviceInfo> DeviceOf(const absl::StatusOr<Response>& response, const char* call) {
  if (!response.ok()) return response.status();
  DeviceInfo info;
  if (!Read(response->device(), info)) return StrangeAnswer(call);
  return info;
}

}  // namespace

// A request about a device, that changes something.
template <typename Request>
Request Client::AskDevice(const std::string& name, const RequestOptions& options) const {
  Request request;
  request.set_device(name);
  request.set_request_id(session_->RequestId(options.request_id));
  return request;
}

absl::StatusOr<DeviceInfo> Client::OpenDevice(const std::string& name, const DeviceSource& source,
                                              const RequestOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  return DeviceOf(
      Session::WithHandles(deadline,
                           [&]() -> absl::StatusOr<v1::OpenDeviceResponse> {
                             auto request = AskDevice<v1::OpenDeviceRequest>(name, options);
                             if (const auto* path = std::get_if<std::string>(&source)) {
                               request.set_path(*path);
                             } else if (const int* fd = std::get_if<int>(&source)) {
                               absl::StatusOr<std::string> handle =
                                   session_->Deposit(FdKind::kDevice, name, *fd, deadline);
                               if (!handle.ok()) return handle.status();
                               request.set_fd_handle(*std::move(handle));
                             } else {
                               Write(std::get<SimulatedDeviceSpec>(source),
                                     *request.mutable_simulated());
                             }
                             return session_->Call(&Connection::OpenDevice, request, deadline);
                           }),
      "OpenDevice");
}

absl::StatusOr<DeviceInfo> Client::GetDevice(const std::string& name,
                                             const CallOptions& options) const {
  v1::GetDeviceRequest request;
  request.set_device(name);
  return DeviceOf(
      session_->Call(&Connection::GetDevice, request, session_->DeadlineOf(options.timeout)),
      "GetDevice");
}

absl::StatusOr<std::vector<DeviceInfo>> Client::ListDevices(const CallOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  std::vector<DeviceInfo> all;
  v1::ListDevicesRequest request;
  do {
    const auto page = session_->Call(&Connection::ListDevices, request, deadline);
    if (!page.ok()) return page.status();
    if (!ReadAll(page->devices(), all)) return StrangeAnswer("ListDevices");
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::Status Client::CloseDevice(const std::string& name, const RequestOptions& options) const {
  return session_
      ->Call(&Connection::CloseDevice, AskDevice<v1::CloseDeviceRequest>(name, options),
             session_->DeadlineOf(options.timeout))
      .status();
}

absl::StatusOr<DeviceInfo> Client::ResetDevice(const std::string& name,
                                               const RequestOptions& options) const {
  return DeviceOf(
      session_->Call(&Connection::ResetDevice, AskDevice<v1::ResetDeviceRequest>(name, options),
                     session_->DeadlineOf(options.timeout)),
      "ResetDevice");
}

absl::StatusOr<MemlockEstimate> Client::EstimateMemlock(const std::string& device,
                                                        const std::string& space,
                                                        const CallOptions& options) const {
  v1::EstimateMemlockRequest request;
  request.set_device(device);
  request.set_space(space);
  const auto estimated =
      session_->Call(&Connection::EstimateMemlock, request, session_->DeadlineOf(options.timeout));
  if (!estimated.ok()) return estimated.status();
  return MemlockEstimate{.required_bytes = estimated->required_bytes(),
                         .limit_bytes = estimated->limit_bytes(),
                         .pinned_bytes = estimated->pinned_bytes()};
}

absl::StatusOr<uint64_t> Client::StartDevice(const std::string& name, uint64_t features,
                                             absl::Span<const VringSetup> vrings,
                                             const RequestOptions& options) const {
  const absl::Time deadline = session_->DeadlineOf(options.timeout);
  const auto started =
      Session::WithHandles(deadline, [&]() -> absl::StatusOr<v1::StartDeviceResponse> {
        auto request = AskDevice<v1::StartDeviceRequest>(name, options);
        request.set_features(features);
        for (const VringSetup& vring : vrings) {
          v1::VringSetup& setup = *request.add_vrings();
          Write(vring, setup);
          for (const auto& [fd, handle] : {std::pair(vring.kick_fd, setup.mutable_kick_handle()),
                                           std::pair(vring.call_fd, setup.mutable_call_handle())}) {
            if (fd < 0) continue;
            absl::StatusOr<std::string> left =
                session_->Deposit(FdKind::kEventfd, name, fd, deadline);
            if (!left.ok()) return left.status();
            *handle = *std::move(left);
          }
        }
        return session_->Call(&Connection::StartDevice, request, deadline);
      });
  if (!started.ok()) return started.status();
  return started->features();
}

absl::StatusOr<std::vector<VringState>> Client::StopDevice(const std::string& name,
                                                           const RequestOptions& options) const {
  const auto stopped =
      session_->Call(&Connection::StopDevice, AskDevice<v1::StopDeviceRequest>(name, options),
                     session_->DeadlineOf(options.timeout));
  if (!stopped.ok()) return stopped.status();
  std::vector<VringState> states;
  for (const v1::VringState& state : stopped->vrings()) {
    states.push_back({.index = state.index(), .base = state.base()});
  }
  return states;
}

absl::StatusOr<std::string> Client::ReadDeviceConfig(const std::string& name, uint32_t offset,
                                                     uint32_t size,
                                                     const CallOptions& options) const {
  v1::ReadDeviceConfigRequest request;
  request.set_device(name);
  request.set_offset(offset);
  request.set_size(size);
  auto got =
      session_->Call(&Connection::ReadDeviceConfig, request, session_->DeadlineOf(options.timeout));
  if (!got.ok()) return got.status();
  return std::move(*got->mutable_data());
}

absl::Status Client::WriteDeviceConfig(const std::string& name, uint32_t offset,
                                       std::string_view data, const RequestOptions& options) const {
  auto request = AskDevice<v1::WriteDeviceConfigRequest>(name, options);
  request.set_offset(offset);
  request.set_data(std::string(data));
  return session_
      ->Call(&Connection::WriteDeviceConfig, request, session_->DeadlineOf(options.timeout))
      .status();
}

absl::StatusOr<DeviceLogInfo> Client::DeviceLog(const std::string& name, uint32_t last,
                                                const CallOptions& options) const {
  v1::DeviceLogRequest request;
  request.set_device(name);
  request.set_last(last);
  const auto got =
      session_->Call(&Connection::DeviceLog, request, session_->DeadlineOf(options.timeout));
  if (!got.ok()) return got.status();
  DeviceLogInfo log;
  if (!Read(*got, log)) return StrangeAnswer("DeviceLog");
  return log;
}

// ---- The server -----------------------------------------------------------------

absl::StatusOr<ServerInfo> Client::GetServerInfo(const CallOptions& options) const {
  const auto got = session_->Call(&Connection::GetServerInfo, v1::GetServerInfoRequest(),
                                  session_->DeadlineOf(options.timeout));
  if (!got.ok()) return got.status();
  ServerInfo info;
  Read(*got, info);
  return info;
}

absl::StatusOr<std::string> Client::Stats(const CallOptions& options) const {
  auto got =
      session_->Call(&Connection::Stats, v1::StatsRequest(), session_->DeadlineOf(options.timeout));
  if (!got.ok()) return got.status();
  return std::move(*got->mutable_text());
}

absl::StatusOr<std::string> Client::AttestProcess(const CallOptions& options) const {
  return session_->Attest(session_->DeadlineOf(options.timeout));
}

}  // namespace iovad
