// Remembers the answers to requests that carried an id, so that a repeat gets
// the first answer again and does nothing.
//
// Purpose. A client that lost an answer may send the request again. Answers are
// opaque bytes here; a request's content is known by a digest.
//
// Thread safety. All of it.
//
// Invariants.
//  1. An id is unknown, running, or answered; only successes become answered.
//  2. Answers are dropped oldest first, as soon as one is too old or there are
//     too many of them or of their bytes. Running ones are never dropped.
//
// Example:
//   RequestLog::Claim claim = log.Begin("r1", digest, now);
//   switch (claim.state) { case kNew: …do it…; log.Record("r1", answer, now); … }
#ifndef IOVAD_CORE_REQUEST_LOG_H_
#define IOVAD_CORE_REQUEST_LOG_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "core/mutex.h"

namespace iovad {

class RequestLog {
 public:
  struct Bounds {
    absl::Duration age = absl::Minutes(10);
    uint64_t count = 100'000;
    uint64_t bytes = 64 * 1024 * 1024;
  };
  explicit RequestLog(Bounds bounds) : bounds_(bounds) {}

  struct Claim {
    enum class State {
      kNew,      // the caller runs it, then calls Record or Forget
      kRunning,  // the first one has not answered yet
      kAnswered,
      kReused,  // known with other content
    };
    State state = State::kNew;
    // Of kAnswered.
    std::shared_ptr<const std::string> answer = {};
  };
  Claim Begin(const std::string& id, const std::string& digest, absl::Time now);

  // A number for the answer to a request that `Begin` called new, which is to be kept
  // elsewhere as well. Numbers rise; a second one takes the place of the first.
  uint64_t NextSequence(const std::string& id);
  // The lowest number in use; the next one when none is.
  uint64_t OldestSequence() const;

  // Ends a request that `Begin` called new: with its answer, or as if it had
  // never been.
  void Record(const std::string& id, std::string answer, absl::Time now);
  void Forget(const std::string& id);

  // Takes in an answer that was kept elsewhere, in the order of their numbers.
  struct Answered {
    std::string id;
    std::string digest;
    std::string answer;
    absl::Time time;
  };
  void Restore(Answered answered, uint64_t sequence);

  // Answers that are kept, and their bytes with ids and digests.
  uint64_t size() const;
  uint64_t bytes() const;

 private:
  struct Entry {
    std::string digest;
    std::shared_ptr<const std::string> answer = {};  // null: running
    absl::Time time = {};
    uint64_t sequence = 0;
  };
  static uint64_t BytesOf(const std::string& id, const Entry& entry);
  void DropOld(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Bounds bounds_;
  mutable Mutex mu_;
  absl::flat_hash_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);
  // Ids of answered requests, oldest first.
  std::deque<std::string> answered_ ABSL_GUARDED_BY(mu_);
  uint64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_sequence_ ABSL_GUARDED_BY(mu_) = 1;
  // Of entries, where they have one.
  std::set<uint64_t> sequences_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad

#endif  // IOVAD_CORE_REQUEST_LOG_H_
