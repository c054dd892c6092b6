// A vhost-vdpa device that this server owns.
//
// Purpose. Puts batches on a device of the kernel's, over core's VhostVdpa, and
// programs its queues, which the owner alone may. The kernel reads memory in the
// owner's address space, so it reaches only what is registered with the space.
//
// The descriptor is left with the service manager, too, where it keeps any
// (fd_store.h): then hardware runs on with its table when this process ends, and the
// next one finds the device FROZEN. It can be looked at, and nothing else, until it is
// opened anew.
//
// Thread safety. As Device. Whatever touches the device runs on a thread of its
// own, one thing after the other: the kernel lets a driver hang (a VDUSE device
// whose daemon is away: 30 s), and takes one batch at a time.
//
// Invariants.
//  1. Closed once, everything that comes later is refused.
//  2. The memory of a push is that of its own; an undo uses the same.
//  3. While `CheckUsable` is not OK, nothing reaches the device.
//
// Example:
//   VhostDevice::Open(
//       [] { return VhostVdpa::Open("/dev/vhost-vdpa-0", "net0"); }, fds,
//       [](absl::StatusOr<std::shared_ptr<VhostDevice>> device) { … });
#ifndef IOVAD_SERVER_VHOST_DEVICE_H_
#define IOVAD_SERVER_VHOST_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/memory_map.h"
#include "core/mutex.h"
#include "core/vhost_vdpa.h"
#include "core/vhost_vdpa_port.h"
#include "server/device.h"
#include "server/fd_store.h"
#include "server/task_thread.h"

namespace iovad {

class VhostDevice final : public Device, public std::enable_shared_from_this<VhostDevice> {
 public:
  using Opener = std::function<absl::StatusOr<VhostVdpa>()>;
  using Opened = std::function<void(absl::StatusOr<std::shared_ptr<VhostDevice>>)>;

  // Entries of its largest ring, and its group.
  struct Virtqueue {
    uint32_t max_size = 0;
    uint32_t group = 0;
  };

  // Calls `open`, which may block, on a new thread, which then is the device's, and
  // `done` there. With a VhostVdpa that was inherited it is frozen, and `reopen` opens it
  // anew; null where only a new descriptor could.
  static void Open(Opener open, Opener reopen, FdStore& fds, Opened done);

  // Use Open.
  VhostDevice(VhostVdpa device, Opener reopen, FdStore& fds, std::unique_ptr<TaskThread> thread);

  void Apply(Push push, Done done) override;
  // A frozen device is emptied by closing it, in all its address spaces, and opened anew
  // if it can be.
  void Reset(Asid asid, Done done) override;
  void SetGroups(std::vector<GroupPlace> places, GroupsDone done) override;
  void Restart(std::function<void(const absl::Status&)> done) override;
  // Mappings: the kernel may use several entries for one (see VhostVdpaPort).
  uint64_t EntryCount(Asid asid) const override { return port_.mappings(asid); }

  // Calls `done(work(VhostVdpa&))` on the device's thread, in its turn. What `work`
  // returns can be made of an absl::Status: it is that of CheckUsable when nothing can
  // be done.
  template <typename Work, typename Done>
  void Do(Work work, Done done) {
    Run([self = shared_from_this(), work = std::move(work), done = std::move(done)] {
      using Result = decltype(work(self->device_));
      if (absl::Status unusable = self->CheckUsable(); !unusable.ok()) {
        return done(Result(std::move(unusable)));
      }
      Result result = work(self->device_);
      self->NoteStatus();
      done(std::move(result));
    });
  }

  // Closes the device, in its turn, and has the service manager close its copy: the
  // kernel resets it and drops its entries. Nothing may be attached.
  void Close(std::function<void()> done);

  // As far as they are known, by index: not while it is frozen.
  std::vector<Virtqueue> virtqueues() const ABSL_LOCKS_EXCLUDED(mu_);
  // The virtio device status as it was after the last `Do`. Asking the device could
  // block.
  uint8_t last_status() const { return status_.load(std::memory_order_relaxed); }
  // Whether a reset may lose what is mapped (no IOTLB_PERSIST): then every address
  // space must be mapped anew.
  bool forgets_on_reset() const { return forgets_on_reset_; }

 private:
  // The memory of the push at hand.
  class PushMemory final : public UaddrResolver {
   public:
    void Use(std::shared_ptr<const MemoryMap> memory) { memory_ = std::move(memory); }
    std::optional<Hva> Local(const IotlbEntry& entry) const override {
      return memory_ == nullptr ? std::nullopt : memory_->Local(entry);
    }

   private:
    std::shared_ptr<const MemoryMap> memory_;
  };

  void Run(TaskThread::Task task) { thread_->Run(TaskThread::MayBlock::kYes, std::move(task)); }
  PushOutcome ApplyNow(const Push& push);
  PushOutcome ResetNow(Asid asid);
  PushOutcome SetGroupsNow(const std::vector<GroupPlace>& places, std::vector<GroupPlace>& before);
  void NoteStatus();
  void NoteQueues() ABSL_LOCKS_EXCLUDED(mu_);
  // Closes every copy of the descriptor.
  void LetGo();
  absl::Status Reopen();
  // Whether what was opened is the device that this one was made of.
  absl::Status CheckSame(const VhostVdpa& device) const;
  absl::Status HowFrozen() const;

  const bool forgets_on_reset_;
  std::atomic<uint8_t> status_ = 0;
  mutable Mutex mu_;
  std::vector<Virtqueue> virtqueues_ ABSL_GUARDED_BY(mu_);
  // On the thread alone, but for the port's counts.
  FdStore& fds_;
  Opener reopen_;
  VhostVdpa device_;
  FdStore::Hold kept_;
  PushMemory memory_;
  VhostVdpaPort port_;
  // Last, so that it ends first.
  std::unique_ptr<TaskThread> thread_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_VHOST_DEVICE_H_
