#include "server/mapping_requests.h"

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/svq_layout.h"
#include "server/call.h"
#include "server/change.h"
#include "server/convert.h"
#include "server/memory_requests.h"
#include "server/space.h"

namespace iovad {
namespace {

Tentative TentativeIf(bool validate_only) { return Tentative{validate_only}; }

// What `Traits` has for each kind of request:
//   Request, Response            the messages
//   kMethod                      its name
//   Parse(request, space, out)   to `Parsed`, core types; errors are answered
//                                when the change's turn comes, after what must
//                                be checked before
//   Plan(core, parsed)           a core `Planned<…>`
//   Write(value, tentative, response)
// and, where it has to do with memory of the server's own,
//   Prepare(files, space, parsed)  after Parse; errors as Parse's
//   Ended(space, parsed, stands)   once it is answered, whether or not it stands
template <typename Traits>
class MappingRequest final : public PlannedChange {
 public:
  using Request = typename Traits::Request;
  using Response = typename Traits::Response;

  // `files` is there where Traits prepare.
  MappingRequest(std::shared_ptr<Space> space, const Request& request, Response& response,
                 Repeats repeats, Answer answer, MappedFiles* files)
      : space_(std::move(space)),
        response_(response),
        repeats_(std::move(repeats)),
        answer_(std::move(answer)) {
    if (request.has_expected_revision()) expected_revision = Revision(request.expected_revision());
    validate_only = request.validate_only();
    parse_status_ = Traits::Parse(request, *space_, parsed_);
    if constexpr (requires { Traits::Prepare(*files, *space_, parsed_); }) {
      if (parse_status_.ok()) parse_status_ = Traits::Prepare(*files, *space_, parsed_);
    }
  }

  absl::StatusOr<bool> Plan(AddressSpace& core) override {
    if (!parse_status_.ok()) return parse_status_;
    const Revision before = core.planned_revision();
    auto planned = Traits::Plan(core, parsed_);
    if (!planned.ok()) return planned.status();
    response_.Clear();
    Traits::Write(planned->value, TentativeIf(validate_only), response_);
    response_.set_revision((validate_only ? before : planned->revision).value());
    // A little is left for what a stream puts around it.
    constexpr uint64_t kEnvelope = 64;
    const uint64_t limit = space_->limits().max_message_bytes;
    if (Traits::MayBeLarge(planned->value) && response_.ByteSizeLong() + kEnvelope > limit) {
      const uint64_t needed = response_.ByteSizeLong() + kEnvelope;
      response_.Clear();
      if (planned->changed) core.UndoLast();
      return MakeError(
          {.reason = Reason::kTooManyOps, .limit = limit, .needed = needed},
          absl::StrCat(space_->prefix(), "the answer would have ", needed, " bytes, of ", limit,
                       " that a message may have; ask for less at a time"));
    }
    return planned->changed;
  }

  uint64_t KeepAnswer(store::SpaceNumber space, store::WriteBatch& batch) override {
    return repeats_.Keep(space, response_, batch);
  }

  void Finish(const absl::Status& status) override {
    if constexpr (requires { Traits::Ended(*space_, parsed_, true); }) {
      Traits::Ended(*space_, parsed_, status.ok() && !validate_only);
    }
    repeats_.End(status, response_);
    answer_(status);
  }

 private:
  const std::shared_ptr<Space> space_;
  Response& response_;
  Repeats repeats_;
  const Answer answer_;
  typename Traits::Parsed parsed_;
  absl::Status parse_status_;
};

// The largest mapping takes less than this on the wire.
constexpr uint64_t kMappingWireBytes = 400;
// Answers with fewer mappings than this fit into any message.
constexpr uint64_t kFewMappings = 2048;
static_assert(kMappingWireBytes * kFewMappings < 1024 * 1024);

uint64_t MappingsIn(const Unmapped& unmapped) {
  return unmapped.removed.size() + unmapped.remainders.size();
}

absl::Status CheckCount(const Space& space, uint64_t count, const char* what) {
  const uint64_t limit = space.limits().max_ops_per_request;
  if (count <= limit) return absl::OkStatus();
  return MakeError({.reason = Reason::kTooManyOps, .limit = limit, .needed = count},
                   absl::StrCat(space.prefix(), count, " ", what, " in one request, of ", limit,
                                " that there may be; send several requests"));
}

struct MapTraits {
  using Request = v1::MapRequest;
  using Response = v1::MapResponse;
  using Parsed = Operation;
  static constexpr char kMethod[] = "Map";

  static absl::Status Parse(const Request& request, const Space& space, Parsed& out) {
    if (!request.has_mapping()) {
      return MakeError({.reason = Reason::kMissingField},
                       absl::StrCat(space.prefix(), "mapping is missing"));
    }
    return ParseMap(request.mapping(), space.prefix(), out.emplace<MapSpec>());
  }
  static auto Plan(AddressSpace& core, const Parsed& parsed) {
    return core.Update(absl::MakeConstSpan(&parsed, 1));
  }
  static bool MayBeLarge(const OperationResults&) { return false; }
  static void Write(const OperationResults& value, Tentative tentative, Response& response) {
    WriteNew(std::get<Mapping>(value.front()), tentative, *response.mutable_mapping());
  }
};

struct UnmapTraits {
  using Request = v1::UnmapRequest;
  using Response = v1::UnmapResponse;
  using Parsed = Operation;
  static constexpr char kMethod[] = "Unmap";

  static absl::Status Parse(const Request& request, const Space& space, Parsed& out) {
    if (!request.has_target()) {
      return MakeError({.reason = Reason::kMissingField},
                       absl::StrCat(space.prefix(), "target is missing"));
    }
    return ParseUnmap(request.target(), space.prefix(), out.emplace<UnmapSpec>());
  }
  static auto Plan(AddressSpace& core, const Parsed& parsed) {
    return core.Update(absl::MakeConstSpan(&parsed, 1));
  }
  static bool MayBeLarge(const OperationResults&) { return false; }
  static void Write(const OperationResults& value, Tentative tentative, Response& response) {
    iovad::Write(std::get<Unmapped>(value.front()), tentative, *response.mutable_result());
  }
};

struct UpdateTraits {
  using Request = v1::UpdateRequest;
  using Response = v1::UpdateResponse;
  using Parsed = std::vector<Operation>;
  static constexpr char kMethod[] = "Update";

  static absl::Status Parse(const Request& request, const Space& space, Parsed& out) {
    const auto count = static_cast<size_t>(request.ops_size());
    if (absl::Status s = CheckCount(space, count, "operations"); !s.ok()) return s;
    out.resize(count);
    for (size_t i = 0; i < count; ++i) {
      absl::Status s = ParseOperation(request.ops(static_cast<int>(i)), space.prefix(), out[i]);
      if (!s.ok()) return WithOpIndex(s, static_cast<uint32_t>(i));
    }
    return absl::OkStatus();
  }
  static auto Plan(AddressSpace& core, const Parsed& parsed) { return core.Update(parsed); }
  static bool MayBeLarge(const OperationResults& value) {
    uint64_t mappings = value.size();
    for (const OperationResult& result : value) {
      if (const auto* unmapped = std::get_if<Unmapped>(&result)) mappings += MappingsIn(*unmapped);
    }
    return mappings > kFewMappings;
  }
  static void Write(const OperationResults& value, Tentative tentative, Response& response) {
    response.mutable_results()->Reserve(static_cast<int>(value.size()));
    for (const OperationResult& result : value) {
      iovad::Write(result, tentative, *response.add_results());
    }
  }
};

struct AllocSvqTraits {
  using Request = v1::AllocSVQRequest;
  using Response = v1::AllocSVQResponse;
  struct Parsed {
    std::vector<SvqSpec> specs;
    // Made for the queues that came without addresses, if any did.
    MemoryId memory{0};
  };
  static constexpr char kMethod[] = "AllocSVQ";

  static absl::Status Parse(const Request& request, const Space& space, Parsed& out) {
    const auto count = static_cast<size_t>(request.queues_size());
    if (count == 0) {
      return MakeError({.reason = Reason::kMissingField},
                       absl::StrCat(space.prefix(), "queues are missing"));
    }
    if (absl::Status s = CheckCount(space, count, "queues"); !s.ok()) return s;
    out.specs.resize(count);
    for (size_t i = 0; i < count; ++i) {
      absl::Status s =
          ParseSvqSpec(request.queues(static_cast<int>(i)), space.prefix(), out.specs[i]);
      if (!s.ok()) return WithOpIndex(s, static_cast<uint32_t>(i));
    }
    return absl::OkStatus();
  }
  static bool HasAddress(const SvqSpec& spec) {
    return spec.desc_hva || spec.driver_hva || spec.device_hva || spec.control_out_hva ||
           spec.control_in_hva;
  }
  static absl::Status Prepare(MappedFiles& files, Space& space, Parsed& parsed) {
    std::vector<SvqSpec> bare;
    std::vector<size_t> index;
    for (size_t i = 0; i < parsed.specs.size(); ++i) {
      if (HasAddress(parsed.specs[i])) continue;
      bare.push_back(parsed.specs[i]);
      index.push_back(i);
    }
    if (bare.empty()) return absl::OkStatus();
    if (absl::Status s = space.CheckOwnMemoryReachable(); !s.ok()) {
      return WithOpIndex(s, static_cast<uint32_t>(index.front()));
    }
    const uint64_t page =
        space.Read([](const AddressSpace& core) { return core.options().page_size; });
    const uint64_t bytes = LayOutSvqs(absl::MakeSpan(bare), Hva(0), page);
    // All sizes are invalid: planning says so.
    if (bytes == 0) return absl::OkStatus();
    const absl::StatusOr<RegisteredMemory> memory =
        MakeMemory(files, space, bytes, "shadow virtqueues");
    if (!memory.ok()) return memory.status();
    parsed.memory = memory->id;
    LayOutSvqs(absl::MakeSpan(bare), memory->client.first(), page);
    for (size_t i = 0; i < bare.size(); ++i) parsed.specs[index[i]] = bare[i];
    return absl::OkStatus();
  }
  static void Ended(Space& space, const Parsed& parsed, bool stands) {
    if (parsed.memory == MemoryId(0)) return;
    stands ? space.KeepOwnMemory(parsed.memory) : space.DropOwnMemory(parsed.memory);
  }
  static auto Plan(AddressSpace& core, const Parsed& parsed) {
    return core.AllocSvqs(parsed.specs);
  }
  static bool MayBeLarge(const std::vector<Svq>& value) { return value.size() > kFewMappings / 8; }
  static void Write(const std::vector<Svq>& value, Tentative tentative, Response& response) {
    for (const Svq& svq : value) iovad::Write(svq, tentative, *response.add_svqs());
  }
};

struct FreeSvqTraits {
  using Request = v1::FreeSVQRequest;
  using Response = v1::FreeSVQResponse;
  using Parsed = std::vector<SvqId>;
  static constexpr char kMethod[] = "FreeSVQ";

  static absl::Status Parse(const Request& request, const Space& space, Parsed& out) {
    const auto count = static_cast<uint64_t>(request.svq_ids_size());
    if (absl::Status s = CheckCount(space, count, "queues"); !s.ok()) return s;
    for (const uint64_t id : request.svq_ids()) out.emplace_back(id);
    return absl::OkStatus();
  }
  static auto Plan(AddressSpace& core, const Parsed& parsed) { return core.FreeSvqs(parsed); }
  static void Ended(Space& space, const Parsed& /*parsed*/, bool stands) {
    if (stands) space.DropIdleMemory();
  }
  static bool MayBeLarge(const Unmapped&) { return false; }
  static void Write(const Unmapped& value, Tentative tentative, Response& response) {
    iovad::Write(value, tentative, *response.mutable_result());
  }
};

template <typename Traits>
void SubmitRequest(const Registry& registry, const typename Traits::Request& request,
                   typename Traits::Response& response, Answer answer,
                   MappedFiles* files = nullptr) {
  absl::StatusOr<std::shared_ptr<Space>> space =
      registry.FindSpace(request.space(), request.space_uid());
  if (!space.ok()) return answer(space.status());
  static const std::string kNoId;
  Repeats repeats((*space)->request_log(), request.validate_only() ? kNoId : request.request_id(),
                  Traits::kMethod, request, response, (*space)->prefix());
  if (!repeats.status().ok() || repeats.replayed()) return answer(repeats.status());
  Space& target = **space;
  target.Submit(std::make_unique<MappingRequest<Traits>>(
      *std::move(space), request, response, std::move(repeats), std::move(answer), files));
}

}  // namespace

void SubmitMap(const Registry& registry, const v1::MapRequest& request, v1::MapResponse& response,
               Answer answer) {
  SubmitRequest<MapTraits>(registry, request, response, std::move(answer));
}

void SubmitUnmap(const Registry& registry, const v1::UnmapRequest& request,
                 v1::UnmapResponse& response, Answer answer) {
  SubmitRequest<UnmapTraits>(registry, request, response, std::move(answer));
}

void SubmitUpdate(const Registry& registry, const v1::UpdateRequest& request,
                  v1::UpdateResponse& response, Answer answer) {
  SubmitRequest<UpdateTraits>(registry, request, response, std::move(answer));
}

void SubmitAllocSvq(ServerContext& context, const v1::AllocSVQRequest& request,
                    v1::AllocSVQResponse& response, Answer answer) {
  SubmitRequest<AllocSvqTraits>(context.registry, request, response, std::move(answer),
                                &context.mapped_files);
}

void SubmitFreeSvq(const Registry& registry, const v1::FreeSVQRequest& request,
                   v1::FreeSVQResponse& response, Answer answer) {
  SubmitRequest<FreeSvqTraits>(registry, request, response, std::move(answer));
}

}  // namespace iovad
