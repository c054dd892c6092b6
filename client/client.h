// The client of an iovad, for VMMs and orchestrators: every call of the API as a function
// on core types.
//
// Purpose. Connects, gives calls a time limit, and makes them safe to rely on: a call
// that the server could not be asked, or whose answer was lost, is repeated within its
// time limit. Each change carries an id that its repeats have too, so it is done exactly
// once, also when the server was killed and started again in between. What has to do
// with a space is on `SpaceHandle` (client/space_handle.h). Programs that want the
// messages of the API themselves use `connection()`.
//
// Errors are absl::Status with the API's detail: `iovad::ReasonOf(status)` and
// `iovad::DetailOf(status)` of core/error.h. Beside those of the server, any call may
// answer
//   UNAVAILABLE          the server could not be reached, or said "not now", until the
//                        time was up (RELAY_DISCONNECTED, DRAINING, … with a reason)
//   DEADLINE_EXCEEDED    it was asked, and had not answered when the time was up. What
//                        was asked may still be done
//   FAILED_PRECONDITION  without a reason: in a forked child, see below
//   INTERNAL             without a reason: the answer is nothing that this API has
//
// Thread safety. All of it may be used from any number of threads at once. Copies are
// the same client, and so is what a SpaceHandle, a stream or a mirror holds of it; the
// connection is closed when the last of them is gone.
//
// Exactly once. What the server keeps of a change for its repeats goes with its
// --state-dir and within its limits (request-id-ttl, 10 minutes; max-request-ids, 100,000
// a space). A server that keeps nothing (--ephemeral) forgets spaces and ids together: a
// repeat is SPACE_NOT_FOUND then. No repeat is made later than 5 minutes after the first
// attempt.
//
// Processes. There is no global state here, but gRPC has some, from the first Client on.
//  - Forking before the first Client of a process is made is fine: each child makes its
//    own (a prefork server does so).
//  - After that a child may exec, or _exit; posix_spawn and the like are fine. A Client,
//    and all that came from it, works on in the parent. In a child its calls return
//    FAILED_PRECONDITION instead of hanging, and destroying it leaves the parent's
//    connection alone; streams that the parent had open must not be touched there. A
//    Client made in such a child does not work: gRPC is not to be had there any more.
//  - No descriptor of a Client is inherited through exec.
// Signals. No handler is installed, no signal's disposition changed, SIGPIPE is not
// raised, and an interrupted system call is taken up again. Nothing here may be called
// in a signal handler but what `Mirror` says. gRPC's threads have the signal mask of the
// thread that made the process's first Client: block there what is to be handled
// elsewhere.
//
// Invariants.
//  1. Nothing throws.
//  2. A change that answered OK is stored and on every attached device.
//
// Example:
//   absl::StatusOr<Client> iovad = Client::Connect("/run/iovad/iovad.sock");
//   absl::StatusOr<SpaceHandle> vm1 = iovad->CreateSpace({.name = "vm1"});
//   auto mapped = vm1->Map({.gpa = Gpa(0), .hva = Hva(0x7f0000000000), .size = 1 << 30});
//   mapped->value.iova();
#ifndef IOVAD_CLIENT_CLIENT_H_
#define IOVAD_CLIENT_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/info.h"
#include "client/options.h"
#include "client/space_handle.h"
#include "client/specs.h"
#include "client/streams.h"
#include "core/types.h"

namespace iovad {

class Client {
 public:
  // `address` is a Unix socket's path or a loopback address, as in client/address.h;
  // INVALID_ARGUMENT when it is none. Does not wait for the server, nor notice that
  // there is none: the first call connects.
  static absl::StatusOr<Client> Connect(std::string_view address,
                                        const ClientOptions& options = {});

  // Returns when the server says that it serves. DEADLINE_EXCEEDED.
  absl::Status WaitUntilServing(const CallOptions& options = {}) const;

  // ---- Spaces ---------------------------------------------------------------

  // INVALID_NAME, INVALID_VALUE, INVALID_LABEL, NAME_TAKEN, SPACE_LIMIT, and what
  // attaching can answer; of an owner HANDLE_NOT_FOUND, and NO_IDENTITY when that process
  // has ended.
  absl::StatusOr<SpaceHandle> CreateSpace(const SpaceSpec& spec,
                                          const RequestOptions& options = {}) const;
  // The space of that name as it is now. SPACE_NOT_FOUND, also when `uid` is given and is
  // not its.
  absl::StatusOr<SpaceHandle> OpenSpace(const std::string& name, const std::string& uid = {},
                                        const CallOptions& options = {}) const;
  // All, by name.
  absl::StatusOr<std::vector<SpaceInfo>> ListSpaces(const CallOptions& options = {}) const;
  // What exists now, as created, then kSnapshotEnd, then what happens.
  std::unique_ptr<SpacesStream> WatchSpaces() const;

  // What `SpaceHandle::Export` gave, as a new space: all of it, or nothing and an error.
  struct Imported {
    SpaceHandle space;
    std::vector<Svq> svqs;
    // The first 1,000, and how many in all.
    std::vector<SkippedMapping> skipped;
    uint64_t skipped_count = 0;
  };
  // `next` fills in the next block, or returns false at the end, or an error, which ends
  // the import and is returned. `progress` is told now and then. It has no time limit but
  // for getting its memories' handles, and is not repeated; a program that does, under
  // the same request id and with the same blocks, gets the first result. The errors:
  // MigrationService.ImportSpace.
  using NextBlock = std::function<absl::StatusOr<bool>(v1::ExportSpaceResponse&)>;
  using OnProgress = std::function<void(const ImportProgress&)>;
  absl::StatusOr<Imported> Import(const ImportSpec& spec, const NextBlock& next,
                                  const OnProgress& progress = nullptr,
                                  const RequestOptions& options = {}) const;

  // ---- Devices --------------------------------------------------------------

  // NAME_TAKEN, DEVICE_NOT_FOUND, PATH_NOT_ALLOWED, DEVICE_BUSY, INVALID_VALUE,
  // DEVICE_ERROR.
  absl::StatusOr<DeviceInfo> OpenDevice(const std::string& name, const DeviceSource& source,
                                        const RequestOptions& options = {}) const;
  absl::StatusOr<DeviceInfo> GetDevice(const std::string& name,
                                       const CallOptions& options = {}) const;
  // All, by name.
  absl::StatusOr<std::vector<DeviceInfo>> ListDevices(const CallOptions& options = {}) const;
  // IN_USE while it is attached.
  absl::Status CloseDevice(const std::string& name, const RequestOptions& options = {}) const;
  // Resets it and replays every attachment.
  absl::StatusOr<DeviceInfo> ResetDevice(const std::string& name,
                                         const RequestOptions& options = {}) const;
  absl::StatusOr<MemlockEstimate> EstimateMemlock(const std::string& device,
                                                  const std::string& space,
                                                  const CallOptions& options = {}) const;
  // Negotiates virtio features, sets the queues up and brings the device to DRIVER_OK;
  // all or nothing. What was negotiated. Of devices that iovad owns.
  absl::StatusOr<uint64_t> StartDevice(const std::string& name, uint64_t features,
                                       absl::Span<const VringSetup> vrings,
                                       const RequestOptions& options = {}) const;
  // Where each queue stands; nothing when it was not started.
  absl::StatusOr<std::vector<VringState>> StopDevice(const std::string& name,
                                                     const RequestOptions& options = {}) const;
  // Bytes of the virtio configuration space.
  absl::StatusOr<std::string> ReadDeviceConfig(const std::string& name, uint32_t offset,
                                               uint32_t size,
                                               const CallOptions& options = {}) const;
  absl::Status WriteDeviceConfig(const std::string& name, uint32_t offset, std::string_view data,
                                 const RequestOptions& options = {}) const;
  // The last messages that were pushed to it; 0: all that are kept.
  absl::StatusOr<DeviceLogInfo> DeviceLog(const std::string& name, uint32_t last = 0,
                                          const CallOptions& options = {}) const;

  // ---- The server -----------------------------------------------------------

  absl::StatusOr<ServerInfo> GetServerInfo(const CallOptions& options = {}) const;
  // Counters, aligned for reading.
  absl::StatusOr<std::string> Stats(const CallOptions& options = {}) const;
  // A handle for this process, with which others make it a space's owner
  // (SpaceSpec::owner_handle, SpaceHandle::Transfer). It works once, and for half a minute.
  absl::StatusOr<std::string> AttestProcess(const CallOptions& options = {}) const;

  // FAILED_PRECONDITION in a forked child of the process that made it. Asks nobody.
  absl::Status CheckProcess() const;

  // The layer below: the API's messages, without repeats. A relay is run over it
  // (client/relay/relay_runner.h). Good as long as any copy of this client is.
  client::Connection& connection() const;

 private:
  friend class SpaceHandle;
  explicit Client(std::shared_ptr<client::Session> session) : session_(std::move(session)) {}

  template <typename Request>
  Request AskDevice(const std::string& name, const RequestOptions& options) const;

  std::shared_ptr<client::Session> session_;
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_CLIENT_H_
