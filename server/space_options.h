// What a request to create a space asks for.
#ifndef IOVAD_SERVER_SPACE_OPTIONS_H_
#define IOVAD_SERVER_SPACE_OPTIONS_H_

#include <string>

#include "absl/status/status.h"
#include "core/address_space.h"
#include "iovad/v1/address_space.pb.h"
#include "server/config.h"
#include "server/space.h"

namespace iovad {

// What the new space is to be like, checked, and a fresh uid and time of creation; all
// but whose it is. MISSING_FIELD, EMPTY_RANGE, INVALID_VALUE, INVALID_LABEL.
absl::Status ParseSpace(const v1::CreateSpaceRequest& request, const Config& config,
                        SpaceOptions& options, Space::Identity& identity);

// Whether a space may have these labels: INVALID_LABEL. `where` begins the message.
absl::Status CheckLabels(const Labels& labels, const std::string& where);

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_OPTIONS_H_
