// A client of a space whose server is killed at any moment, and that knows what must be
// there afterwards.
//
// Purpose. Changes its own part of a space at random, one request at a time, each with an
// id of its own; other clients of the same space have other parts. What was acknowledged is
// in its model. The one request that may be under way when the server dies is repeated
// afterwards: what the space had before the repeat must be the model without that request or
// with all of it, as the answer says.
//
// Thread safety. One thread at a time.
//
// Example:
//   CrashClient client("vm1", /*number=*/0, seed, memory_hva);
//   client.Run(*iovad, stop);          // until the server is gone
//   client.Settle(*again, found);      // it is back: everything as it must be?
#ifndef IOVAD_TESTS_KERNEL_API_CRASH_CLIENT_H_
#define IOVAD_TESTS_KERNEL_API_CRASH_CLIENT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"

namespace iovad {

class CrashClient {
 public:
  // Mappings and shadow virtqueues by id, byte for byte.
  struct Contents {
    std::map<uint64_t, std::string> mappings;
    std::map<uint64_t, std::string> queues;
    bool operator==(const Contents&) const = default;
  };
  // What a space had at one revision.
  struct Found {
    std::vector<v1::Mapping> mappings;
    std::vector<v1::Svq> queues;
    uint64_t revision = 0;
  };

  // At most so many of a space. `memory` is the HVA of kMemory registered bytes, which
  // all have in common.
  static constexpr uint64_t kMost = 8;
  static constexpr uint64_t kMemory = 2 << 20;
  CrashClient(std::string space, uint64_t number, uint64_t seed, uint64_t memory);

  // Changes the space until the server is gone or `stop`. Whatever is refused fails the
  // test.
  void Run(client::Connection& iovad, const std::atomic<bool>& stop);

  // After a restart: holds what was found against the model, and repeats requests, some
  // that were answered and the one that was under way.
  void Settle(client::Connection& iovad, const Found& found);

  // What it must have, and does, once it is settled.
  Contents contents() const;
  // The part of what was found that is its own.
  Contents PartOf(const Found& found) const;
  // The last revision that it was told of.
  uint64_t revision() const { return revision_; }

  uint64_t acknowledged() const { return acknowledged_; }
  // Requests under way when the server died: those that had happened, and the others.
  uint64_t happened() const { return happened_; }
  uint64_t lost() const { return lost_; }

 private:
  using Request = std::variant<v1::MapRequest, v1::UnmapRequest, v1::UpdateRequest,
                               v1::AllocSVQRequest, v1::FreeSVQRequest>;
  using Answer = std::variant<v1::MapResponse, v1::UnmapResponse, v1::UpdateResponse,
                              v1::AllocSVQResponse, v1::FreeSVQResponse>;
  struct Answered {
    Request request;
    std::string answer;
  };

  Request NextRequest();
  Request NextUnmap();
  Request NextUpdate();
  Request NextQueues();
  v1::MappingSpec NewMapping(uint64_t slot);
  std::vector<uint64_t> FreeSlots() const;
  std::vector<const v1::Mapping*> Guests() const;
  uint64_t Draw(uint64_t below) { return random_() % below; }

  // Sends what is under way. False when the server is gone; a refusal fails the test.
  bool Send(client::Connection& iovad);
  static absl::StatusOr<Answer> Ask(client::Connection& iovad, const Request& request);
  void Apply(const v1::MapResponse& answer);
  void Apply(const v1::UnmapResponse& answer);
  void Apply(const v1::UpdateResponse& answer);
  void Apply(const v1::AllocSVQResponse& answer);
  void Apply(const v1::FreeSVQResponse& answer);
  void Take(const v1::UnmapResult& result);
  void Add(const v1::Mapping& mapping);

  const std::string space_;
  const uint64_t number_;
  const uint64_t memory_;
  std::mt19937_64 random_;
  std::map<uint64_t, v1::Mapping> mappings_;
  std::map<uint64_t, v1::Svq> queues_;
  std::optional<Request> under_way_;
  std::deque<Answered> answered_;  // the last ones
  uint64_t revision_ = 0;
  uint64_t sequence_ = 0;
  uint64_t acknowledged_ = 0;
  uint64_t happened_ = 0;
  uint64_t lost_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_CRASH_CLIENT_H_
