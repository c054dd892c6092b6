#include "server/restore_mappings.h"

#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "core/mutex.h"

namespace iovad {
namespace {

using Mappings = std::vector<Mapping>;

constexpr size_t kAtOnce = 1000;
// How far reading may be ahead, in steps of that.
constexpr size_t kAhead = 16;

// From one thread to the other, in order.
class Handover {
 public:
  // False when nobody wants more.
  bool Give(Mappings mappings) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    while (!over_ && given_.size() == kAhead) changed_.Wait(mu_);
    if (over_) return false;
    given_.push_back(std::move(mappings));
    changed_.NotifyOne();
    return true;
  }
  // Empty when there will be no more.
  Mappings Take() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    while (!over_ && given_.empty()) changed_.Wait(mu_);
    if (given_.empty()) return {};
    Mappings taken = std::move(given_.front());
    given_.pop_front();
    changed_.NotifyOne();
    return taken;
  }
  void End() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    over_ = true;
    changed_.NotifyOne();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::deque<Mappings> given_ ABSL_GUARDED_BY(mu_);
  bool over_ ABSL_GUARDED_BY(mu_) = false;
};

// The next `kAtOnce`, or fewer at the end.
absl::StatusOr<Mappings> Read(store::Snapshot& kept, store::SpaceNumber space, MappingId from) {
  Mappings mappings;
  mappings.reserve(kAtOnce);
  const absl::Status read = kept.ForEachMapping(space, from, [&](const Mapping& m) {
    mappings.push_back(m);
    return mappings.size() < kAtOnce;
  });
  if (!read.ok()) return read;
  return mappings;
}

absl::Status Add(const Mappings& mappings, AddressSpace::Restorer& restorer) {
  for (const Mapping& m : mappings) {
    if (absl::Status added = restorer.Add(m); !added.ok()) return added;
  }
  return absl::OkStatus();
}

// From a mapping to the last one.
absl::Status ReadRest(store::Snapshot& kept, store::SpaceNumber space, MappingId from,
                      Handover& handover) {
  while (true) {
    absl::StatusOr<Mappings> mappings = Read(kept, space, from);
    if (!mappings.ok()) return mappings.status();
    const bool last = mappings->size() < kAtOnce;
    if (mappings->empty()) return absl::OkStatus();
    from = MappingId(mappings->back().id().value() + 1);
    if (!handover.Give(*std::move(mappings)) || last) return absl::OkStatus();
  }
}

}  // namespace

absl::Status RestoreMappings(store::Snapshot& kept, store::SpaceNumber space,
                             AddressSpace::Restorer& restorer,
                             const std::function<void()>& then_read) {
  const absl::StatusOr<Mappings> first = Read(kept, space, MappingId(0));
  if (!first.ok()) return first.status();
  if (absl::Status added = Add(*first, restorer); !added.ok()) return added;
  if (first->size() < kAtOnce) {
    then_read();
    return absl::OkStatus();
  }

  Handover handover;
  absl::Status read;
  std::thread reader([&] {
    read = ReadRest(kept, space, MappingId(first->back().id().value() + 1), handover);
    handover.End();
    if (read.ok()) then_read();
  });
  absl::Status added;
  while (added.ok()) {
    const Mappings mappings = handover.Take();
    if (mappings.empty()) break;
    added = Add(mappings, restorer);
  }
  handover.End();
  reader.join();
  return added.ok() ? read : added;
}

}  // namespace iovad
