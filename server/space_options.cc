#include "server/space_options.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "core/name.h"
#include "core/page.h"
#include "server/convert.h"
#include "server/registry.h"

namespace iovad {
namespace {

constexpr size_t kMaxReserved = 1024;
constexpr size_t kMaxLabels = 64;

absl::Status ParseLifetime(const v1::CreateSpaceRequest& request, const Config& config,
                           const std::string& where, Ownership& ownership) {
  const auto invalid = [&](const std::string& what) {
    return MakeError({.reason = Reason::kInvalidValue}, absl::StrCat(where, what));
  };
  if (!v1::Lifetime_IsValid(request.lifetime())) {
    return invalid("lifetime is none of PERMANENT, OWNER_PROCESS");
  }
  if (request.lifetime() != v1::LIFETIME_OWNER_PROCESS) {
    if (!request.has_grace()) return absl::OkStatus();
    return invalid("grace is of lifetime OWNER_PROCESS, and the space is to be PERMANENT");
  }
  ownership.lifetime = Lifetime::kOwnerProcess;
  ownership.grace = absl::FromChrono(config.owner_grace);
  if (request.has_grace()) {
    const google::protobuf::Duration& grace = request.grace();
    ownership.grace = ReadDuration(grace);
    constexpr int32_t kSecond = 1'000'000'000;
    const absl::Duration most = absl::FromChrono(kMaxOwnerGrace);
    if (grace.seconds() < 0 || grace.nanos() < 0 || grace.nanos() >= kSecond ||
        ownership.grace > most) {
      return invalid(absl::StrCat("grace is a duration from 0 to ", absl::FormatDuration(most),
                                  ", not ", absl::FormatDuration(ownership.grace)));
    }
  }
  if (!request.owner_handle().empty()) return absl::OkStatus();
  return MakeError({.reason = Reason::kMissingField},
                   absl::StrCat(where, "lifetime OWNER_PROCESS needs an owner_handle"));
}

}  // namespace

absl::Status CheckLabels(const Labels& labels, const std::string& where) {
  if (labels.size() > kMaxLabels) {
    return MakeError({.reason = Reason::kInvalidLabel, .limit = kMaxLabels},
                     absl::StrCat(where, "a space has at most ", kMaxLabels, " labels"));
  }
  for (const auto& [key, value] : labels) {
    if (!key.empty() && IsValidLabel(key) && IsValidLabel(value)) continue;
    return MakeError({.reason = Reason::kInvalidLabel},
                     absl::StrCat(where,
                                  "a label's key and value have at most 64 characters of "
                                  "UTF-8 and no control characters"));
  }
  return absl::OkStatus();
}

absl::Status ParseSpace(const v1::CreateSpaceRequest& request, const Config& config,
                        SpaceOptions& options, Space::Identity& identity) {
  const Limits& limits = config.limits;
  const std::string where = absl::StrCat("space '", request.space().substr(0, 64), "': ");
  const auto invalid = [&](const std::string& what, uint64_t limit) {
    return MakeError({.reason = Reason::kInvalidValue, .limit = limit}, absl::StrCat(where, what));
  };
  options.name = request.space();
  if (request.has_iova_range()) {
    const absl::StatusOr<IovaRange> range = ParseRange<Iova>(request.iova_range(), where);
    if (!range.ok()) return range.status();
    options.range = *range;
  }
  if (request.has_reserved()) {
    options.reserved.clear();
    if (request.reserved().ranges_size() > static_cast<int>(kMaxReserved)) {
      return invalid(absl::StrCat("at most ", kMaxReserved, " ranges can be reserved"),
                     kMaxReserved);
    }
    for (const v1::Range& r : request.reserved().ranges()) {
      const absl::StatusOr<IovaRange> range = ParseRange<Iova>(r, where);
      if (!range.ok()) return range.status();
      options.reserved.push_back(*range);
    }
  }
  const absl::StatusOr<Placement> placement = ParsePlacement(request.placement(), where);
  if (!placement.ok()) return placement.status();
  options.placement = *placement;
  if (request.iova_page_size() != 0) {
    constexpr uint64_t kMaxPageSize = uint64_t{1} << 30;
    options.page_size = request.iova_page_size();
    if (!std::has_single_bit(options.page_size) || options.page_size < kPageSize ||
        options.page_size > kMaxPageSize) {
      return invalid(absl::StrCat("iova_page_size ", options.page_size,
                                  " is not a power of two from 4096 to 2^30"),
                     kMaxPageSize);
    }
  }
  options.max_mappings = limits.max_mappings_per_space;
  if (request.max_mappings() != 0) {
    if (request.max_mappings() > limits.max_mappings_per_space) {
      return invalid(absl::StrCat("max_mappings is at most ", limits.max_mappings_per_space,
                                  " on this server"),
                     limits.max_mappings_per_space);
    }
    options.max_mappings = request.max_mappings();
  }
  identity.labels = {request.labels().begin(), request.labels().end()};
  if (absl::Status s = CheckLabels(identity.labels, where); !s.ok()) return s;
  if (absl::Status s = ParseLifetime(request, config, where, identity.ownership); !s.ok()) return s;
  identity.uid = RandomId();
  identity.create_time = absl::Now();
  return absl::OkStatus();
}

}  // namespace iovad
