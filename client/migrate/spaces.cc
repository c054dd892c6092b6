#include "client/migrate/spaces.h"

#include <utility>

#include "client/error.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad::migrate {

using client::Connection;

absl::StatusOr<std::optional<v1::Space>> FindSpace(Connection& connection, const std::string& name,
                                                   const client::CallOptions& options) {
  v1::GetSpaceRequest request;
  request.set_space(name);
  absl::StatusOr<v1::GetSpaceResponse> got = connection.GetSpace(request, options);
  if (got.ok()) return std::optional<v1::Space>(std::move(*got->mutable_space()));
  if (client::ReasonOf(got.status()) != v1::REASON_SPACE_NOT_FOUND) return got.status();
  return std::optional<v1::Space>();
}

absl::StatusOr<std::vector<v1::Space>> ListSpaces(Connection& connection,
                                                  const client::CallOptions& options) {
  std::vector<v1::Space> spaces;
  v1::ListSpacesRequest request;
  do {
    absl::StatusOr<v1::ListSpacesResponse> page = connection.ListSpaces(request, options);
    if (!page.ok()) return page.status();
    for (v1::Space& space : *page->mutable_spaces()) spaces.emplace_back().Swap(&space);
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return spaces;
}

}  // namespace iovad::migrate
