#include "tests/kernel/api/crash_client.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "gtest/gtest.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

// A client's GPAs, and the slots of them that a mapping is in one of.
constexpr uint64_t kGpas = 1ULL << 30;
constexpr uint64_t kSlot = 16 * kPage;
constexpr uint64_t kSlots = 64;
// Few HVAs, so that there are many aliases.
constexpr uint64_t kGuestPages = 48;
constexpr uint64_t kMostPages = 8;
// More mappings than this are not kept.
constexpr size_t kMany = 40;
// Rings are behind the guest's memory, each queue's in a place of its own.
constexpr uint64_t kRings = 1 << 20;
constexpr uint64_t kQueues = 4;
constexpr uint64_t kAreas = 4;  // of a control queue, a page each
static_assert(kRings + CrashClient::kMost * kQueues * kAreas * kPage <= CrashClient::kMemory);
static_assert(kGuestPages * kPage <= kRings);

// How many answered requests are remembered, and repeated of these.
constexpr size_t kRemembered = 20;
constexpr size_t kRepeated = 3;

// Whether a call ended because there is no server any more: its own refusals have a
// reason.
bool IsGone(const absl::Status& status) {
  if (client::ReasonOf(status) != v1::REASON_UNSPECIFIED) return false;
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kCancelled ||
         status.code() == absl::StatusCode::kUnknown ||
         status.code() == absl::StatusCode::kInternal;
}

template <typename Variant>
std::string Text(const Variant& message) {
  return std::visit(
      [](const auto& m) { return absl::StrCat(m.GetTypeName(), " ", m.ShortDebugString()); },
      message);
}
template <typename Variant>
std::string Bytes(const Variant& message) {
  return std::visit([](const auto& m) { return m.SerializeAsString(); }, message);
}

}  // namespace

CrashClient::CrashClient(std::string space, uint64_t number, uint64_t seed, uint64_t memory)
    : space_(std::move(space)), number_(number), memory_(memory), random_(seed) {}

// ---- Changing ------------------------------------------------------------------

void CrashClient::Run(client::Connection& iovad, const std::atomic<bool>& stop) {
  while (!stop) {
    under_way_ = NextRequest();
    std::visit(
        [this](auto& request) {
          request.set_space(space_);
          request.set_request_id(absl::StrCat("client-", number_, "-", ++sequence_));
        },
        *under_way_);
    if (!Send(iovad)) return;
  }
}

bool CrashClient::Send(client::Connection& iovad) {
  const absl::StatusOr<Answer> answer = Ask(iovad, *under_way_);
  if (!answer.ok()) {
    EXPECT_TRUE(IsGone(answer.status()))
        << Text(*under_way_) << " was refused: " << answer.status();
    return false;
  }
  std::visit(
      [this](const auto& message) {
        EXPECT_GT(message.revision(), revision_);
        revision_ = message.revision();
        Apply(message);
      },
      *answer);
  answered_.push_back({*std::move(under_way_), Bytes(*answer)});
  if (answered_.size() > kRemembered) answered_.pop_front();
  under_way_.reset();
  ++acknowledged_;
  return true;
}

absl::StatusOr<CrashClient::Answer> CrashClient::Ask(client::Connection& iovad,
                                                     const Request& request) {
  const client::CallOptions options{.timeout = absl::Seconds(30)};
  const auto call = [&](const auto& message) {
    using Message = std::decay_t<decltype(message)>;
    if constexpr (std::is_same_v<Message, v1::MapRequest>) {
      return iovad.Map(message, options);
    } else if constexpr (std::is_same_v<Message, v1::UnmapRequest>) {
      return iovad.Unmap(message, options);
    } else if constexpr (std::is_same_v<Message, v1::UpdateRequest>) {
      return iovad.Update(message, options);
    } else if constexpr (std::is_same_v<Message, v1::AllocSVQRequest>) {
      return iovad.AllocSVQ(message, options);
    } else {
      return iovad.FreeSVQ(message, options);
    }
  };
  return std::visit(
      [&](const auto& message) -> absl::StatusOr<Answer> {
        auto answer = call(message);
        if (!answer.ok()) return answer.status();
        return Answer(*std::move(answer));
      },
      request);
}

CrashClient::Request CrashClient::NextRequest() {
  const uint64_t choice = Draw(100);
  if (mappings_.size() > kMany || (choice < 25 && !Guests().empty())) return NextUnmap();
  if (choice < 50) {
    v1::MapRequest request;
    const std::vector<uint64_t> free = FreeSlots();
    *request.mutable_mapping() = NewMapping(free[Draw(free.size())]);
    return request;
  }
  return choice < 85 ? NextUpdate() : NextQueues();
}

CrashClient::Request CrashClient::NextUnmap() {
  const std::vector<const v1::Mapping*> guests = Guests();
  v1::UnmapRequest request;
  v1::UnmapTarget& target = *request.mutable_target();
  const v1::Mapping& victim = *guests[Draw(guests.size())];
  switch (Draw(3)) {
    case 0: {  // a page of it, of which the rest stays
      const uint64_t gpa = victim.gpa() + Draw(victim.size() / kPage) * kPage;
      target.mutable_gpa()->set_first(gpa);
      target.mutable_gpa()->set_last(gpa + kPage - 1);
      target.set_allow_split(true);
      break;
    }
    case 1:  // half of all
      target.mutable_gpa()->set_first(number_ * kGpas);
      target.mutable_gpa()->set_last(victim.gpa() + victim.size() - 1);
      break;
    default:
      target.set_at_gpa(victim.gpa());
  }
  return request;
}

CrashClient::Request CrashClient::NextUpdate() {
  v1::UpdateRequest request;
  std::vector<const v1::Mapping*> guests = Guests();
  std::shuffle(guests.begin(), guests.end(), random_);
  guests.resize(std::min<size_t>(guests.size(), Draw(5)));
  for (const v1::Mapping* victim : guests) {
    request.add_ops()->mutable_unmap()->set_at_gpa(victim->gpa());
  }
  std::vector<uint64_t> free = FreeSlots();
  std::shuffle(free.begin(), free.end(), random_);
  free.resize(std::min<size_t>(free.size(), 1 + Draw(5)));
  for (const uint64_t slot : free) *request.add_ops()->mutable_map() = NewMapping(slot);
  return request;
}

CrashClient::Request CrashClient::NextQueues() {
  if (queues_.size() < kQueues && (queues_.empty() || Draw(2) == 0)) {
    v1::AllocSVQRequest request;
    uint64_t place = 0;
    const auto is_taken = [&](uint64_t at) {
      return std::any_of(queues_.begin(), queues_.end(), [&](const auto& queue) {
        return queue.second.queue_index() == number_ * kQueues + at;
      });
    };
    while (is_taken(place)) ++place;
    v1::SvqSpec& spec = *request.add_queues();
    spec.set_queue_index(static_cast<uint32_t>(number_ * kQueues + place));
    spec.set_queue_size(64);
    spec.set_format(v1::RING_FORMAT_SPLIT);
    const uint64_t rings = memory_ + kRings + (number_ * kQueues + place) * kAreas * kPage;
    spec.set_driver_hva(rings);
    spec.set_device_hva(rings + kPage);
    spec.set_control(Draw(3) == 0);
    if (spec.control()) {
      spec.set_control_out_hva(rings + 2 * kPage);
      spec.set_control_in_hva(rings + 3 * kPage);
    }
    return request;
  }
  v1::FreeSVQRequest request;
  for (const auto& [id, queue] : queues_) {
    if (request.svq_ids().empty() || Draw(2) == 0) request.add_svq_ids(id);
  }
  return request;
}

v1::MappingSpec CrashClient::NewMapping(uint64_t slot) {
  v1::MappingSpec spec;
  spec.set_gpa(number_ * kGpas + slot * kSlot);
  spec.set_size((1 + Draw(kMostPages)) * kPage);
  spec.set_hva(memory_ + Draw(kGuestPages - kMostPages + 1) * kPage);
  spec.set_access(Draw(4) == 0 ? v1::ACCESS_READ_ONLY : v1::ACCESS_READ_WRITE);
  if (Draw(2) == 0) spec.set_label("ram");
  return spec;
}

std::vector<uint64_t> CrashClient::FreeSlots() const {
  std::vector<bool> taken(kSlots);
  for (const v1::Mapping* guest : Guests()) {
    taken[(guest->gpa() - number_ * kGpas) / kSlot] = true;
  }
  std::vector<uint64_t> free;
  for (uint64_t slot = 0; slot < kSlots; ++slot) {
    if (!taken[slot]) free.push_back(slot);
  }
  return free;
}

std::vector<const v1::Mapping*> CrashClient::Guests() const {
  std::vector<const v1::Mapping*> guests;
  for (const auto& [id, mapping] : mappings_) {
    if (mapping.has_gpa()) guests.push_back(&mapping);
  }
  return guests;
}

// ---- What was acknowledged -----------------------------------------------------

void CrashClient::Add(const v1::Mapping& mapping) {
  EXPECT_TRUE(mappings_.emplace(mapping.mapping_id(), mapping).second)
      << "given out twice: " << mapping.ShortDebugString();
}

void CrashClient::Take(const v1::UnmapResult& result) {
  for (const v1::Mapping& mapping : result.removed()) {
    const auto known = mappings_.find(mapping.mapping_id());
    if (known == mappings_.end()) {
      ADD_FAILURE() << "removed what was not there: " << mapping.ShortDebugString();
      continue;
    }
    EXPECT_EQ(known->second.SerializeAsString(), mapping.SerializeAsString());
    mappings_.erase(known);
  }
  for (const v1::Mapping& mapping : result.remainders()) Add(mapping);
}

void CrashClient::Apply(const v1::MapResponse& answer) { Add(answer.mapping()); }

void CrashClient::Apply(const v1::UnmapResponse& answer) { Take(answer.result()); }

void CrashClient::Apply(const v1::UpdateResponse& answer) {
  for (const v1::OpResult& result : answer.results()) {
    if (result.has_mapped()) Add(result.mapped());
    if (result.has_unmapped()) Take(result.unmapped());
  }
}

void CrashClient::Apply(const v1::AllocSVQResponse& answer) {
  for (const v1::Svq& queue : answer.svqs()) {
    EXPECT_TRUE(queues_.emplace(queue.svq_id(), queue).second);
    for (const v1::Mapping& mapping : queue.mappings()) Add(mapping);
  }
}

void CrashClient::Apply(const v1::FreeSVQResponse& answer) {
  for (const v1::Mapping& mapping : answer.result().removed()) queues_.erase(mapping.svq_id());
  Take(answer.result());
}

// ---- What is there -------------------------------------------------------------

CrashClient::Contents CrashClient::contents() const {
  Contents contents;
  for (const auto& [id, mapping] : mappings_) contents.mappings[id] = mapping.SerializeAsString();
  for (const auto& [id, queue] : queues_) contents.queues[id] = queue.SerializeAsString();
  return contents;
}

CrashClient::Contents CrashClient::PartOf(const Found& found) const {
  const auto is_own = [this](const v1::Mapping& mapping) {
    if (mapping.has_gpa()) return mapping.gpa() / kGpas == number_;
    return (mapping.hva() - memory_ - kRings) / (kQueues * kAreas * kPage) == number_;
  };
  Contents part;
  for (const v1::Mapping& mapping : found.mappings) {
    if (is_own(mapping)) part.mappings[mapping.mapping_id()] = mapping.SerializeAsString();
  }
  for (const v1::Svq& queue : found.queues) {
    if (queue.queue_index() / kQueues == number_) {
      part.queues[queue.svq_id()] = queue.SerializeAsString();
    }
  }
  return part;
}

void CrashClient::Settle(client::Connection& iovad, const Found& found) {
  SCOPED_TRACE(testing::Message() << "client " << number_ << " of space " << space_);
  const Contents part = PartOf(found);
  EXPECT_GE(found.revision, revision_) << "what was acknowledged is lost";
  for (size_t i = answered_.size() - std::min(answered_.size(), kRepeated); i < answered_.size();
       ++i) {
    const absl::StatusOr<Answer> again = Ask(iovad, answered_[i].request);
    EXPECT_TRUE(again.ok()) << Text(answered_[i].request) << ": " << again.status();
    if (again.ok()) {
      EXPECT_EQ(Bytes(*again), answered_[i].answer) << Text(answered_[i].request);
    }
  }
  if (!under_way_.has_value()) {
    EXPECT_TRUE(part == contents()) << "not what was acknowledged";
    return;
  }
  // As a client would: the same request again.
  const std::string what = Text(*under_way_);
  const Contents before = contents();
  ASSERT_TRUE(Send(iovad)) << what;
  const bool was_there = revision_ <= found.revision;
  (was_there ? happened_ : lost_) += 1;
  EXPECT_TRUE(part == (was_there ? contents() : before))
      << what << ", under way, is there by halves; by its revision, " << revision_ << " of "
      << found.revision << ", it was " << (was_there ? "" : "not ") << "there";
}

}  // namespace iovad
