#include "server/listings.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/error.h"

namespace iovad {
namespace {

constexpr char kVersion[] = "l1";

// FNV-1a: a token is not secret, it is only not to be made up by accident.
uint64_t Checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

bool ParseHex(absl::string_view text, uint64_t& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, 16);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string Listings::Token::Encode(std::string_view space_uid) const {
  const auto hex = [](uint64_t n) { return absl::Hex(n); };
  const std::string body = absl::StrCat(
      kVersion, ".", absl::string_view(space_uid.data(), space_uid.size()), ".", hex(listing), ".",
      hex(from.value()), ".", iova.has_value() ? 1 : 0, ".",
      hex(iova.has_value() ? iova->first().value() : 0), ".",
      hex(iova.has_value() ? iova->last().value() : 0), ".", hex(static_cast<uint64_t>(kind)));
  return absl::StrCat(body, ".", hex(Checksum(body)));
}

absl::StatusOr<Listings::Token> Listings::Token::Decode(std::string_view text,
                                                        std::string_view space_uid,
                                                        std::string_view where) {
  const auto invalid = [&] {
    return MakeError({.reason = Reason::kInvalidPageToken},
                     absl::StrCat(absl::string_view(where.data(), where.size()),
                                  "page_token is none that this server gave; begin the listing "
                                  "again without one"));
  };
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), '.');
  if (parts.size() != 9 || parts[0] != kVersion) return invalid();
  uint64_t checksum = 0;
  const size_t body = text.rfind('.');
  if (!ParseHex(parts[8], checksum) || checksum != Checksum(text.substr(0, body))) {
    return invalid();
  }
  uint64_t numbers[6] = {};
  for (size_t i = 0; i < 6; ++i) {
    if (!ParseHex(parts[i + 2], numbers[i])) return invalid();
  }
  Token token;
  token.listing = numbers[0];
  token.from = Iova(numbers[1]);
  if (numbers[2] == 1) token.iova = IovaRange::FromBounds(Iova(numbers[3]), Iova(numbers[4]));
  token.kind = static_cast<int>(numbers[5]);
  if (parts[1] != space_uid) return invalid();
  return token;
}

uint64_t Listings::Open(AddressSpace& space, absl::Time now) {
  if (open_.size() >= bounds_.open) {
    const auto idlest = std::min_element(
        open_.begin(), open_.end(),
        [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
    Close(space, idlest->first);
  }
  const uint64_t listing = next_++;
  open_.emplace(listing, Listing{.revision = space.Pin(), .used = now});
  return listing;
}

std::optional<Revision> Listings::Use(uint64_t listing, absl::Time now) {
  const auto it = open_.find(listing);
  if (it == open_.end()) return std::nullopt;
  it->second.used = now;
  return it->second.revision;
}

void Listings::Close(AddressSpace& space, uint64_t listing) {
  const auto it = open_.find(listing);
  if (it == open_.end()) return;
  const Revision revision = it->second.revision;
  open_.erase(it);
  space.Unpin(revision);
}

void Listings::Sweep(AddressSpace& space, absl::Time now, size_t max_buried) {
  const bool too_dear = space.buried_count() > max_buried;
  std::vector<uint64_t> ended;
  for (const auto& [listing, state] : open_) {
    if (too_dear || now - state.used >= bounds_.idle) ended.push_back(listing);
  }
  for (const uint64_t listing : ended) Close(space, listing);
}

}  // namespace iovad
