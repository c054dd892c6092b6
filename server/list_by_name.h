// Pages of things that have names: spaces and devices.
#ifndef IOVAD_SERVER_LIST_BY_NAME_H_
#define IOVAD_SERVER_LIST_BY_NAME_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/error.h"
#include "core/name.h"

namespace iovad {

// Fills one page. The token is "after:" and the last name of the page before, so
// a listing survives whatever comes and goes meanwhile. `find(after, most)` gives pointers
// by name, `add` writes one into the response, `remove_last` takes the last back
// when the response has become too large. INVALID_PAGE_TOKEN.
template <typename Request, typename Response, typename Find, typename Add, typename RemoveLast>
absl::Status ListByName(const Request& request, uint64_t max_bytes, Find find, Add add,
                        RemoveLast remove_last, Response& response) {
  constexpr uint32_t kMaxPage = 1000;
  constexpr uint64_t kTokenBytes = 128;
  // No name begins so: a name by itself is no token.
  static constexpr char kTokenPrefix[] = "after:";
  constexpr size_t kPrefixLength = sizeof(kTokenPrefix) - 1;
  const std::string& token = request.page_token();
  const std::string after = token.size() > kPrefixLength ? token.substr(kPrefixLength) : "";
  if (!token.empty() && (token != kTokenPrefix + after || !IsValidName(after))) {
    return MakeError({.reason = Reason::kInvalidPageToken},
                     "page_token is none that this server gave; begin the listing again");
  }
  const uint32_t page =
      request.page_size() == 0 ? kMaxPage : std::min(request.page_size(), kMaxPage);
  const auto found = find(after, size_t{page} + 1);
  std::string last;
  for (size_t i = 0; i < found.size(); ++i) {
    bool full = i == page;
    if (!full) {
      add(*found[i]);
      full = i > 0 && response.ByteSizeLong() + kTokenBytes > max_bytes;
      if (full) remove_last();
    }
    if (full) {
      response.set_next_page_token(kTokenPrefix + last);
      break;
    }
    last = found[i]->name();
  }
  return absl::OkStatus();
}

}  // namespace iovad

#endif  // IOVAD_SERVER_LIST_BY_NAME_H_
