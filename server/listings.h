// Listings in progress: each page of one comes from the same revision.
//
// Purpose. A listing longer than a page pins its revision in the space and gives
// the client a token to go on with. Few may be open at a time, and not for long.
//
// Thread safety. None of its own: used under the space's lock.
#ifndef IOVAD_SERVER_LISTINGS_H_
#define IOVAD_SERVER_LISTINGS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/address_space.h"
#include "core/types.h"

namespace iovad {

class Listings {
 public:
  struct Bounds {
    uint64_t open;
    absl::Duration idle;
  };

  // What a page token says. Opaque to clients: a checksum tells damage.
  struct Token {
    uint64_t listing = 0;
    // Where the next page begins.
    Iova from = {};
    // The filters that the listing began with.
    std::optional<IovaRange> iova = {};
    int kind = 0;

    std::string Encode(std::string_view space_uid) const;
    // INVALID_PAGE_TOKEN.
    static absl::StatusOr<Token> Decode(std::string_view text, std::string_view space_uid,
                                        std::string_view where);
  };

  explicit Listings(Bounds bounds) : bounds_(bounds) {}

  // Pins the committed revision. Ends the longest unused listing when too many
  // are open.
  uint64_t Open(AddressSpace& space, absl::Time now);
  // The revision that a listing reads, and that it was used just now; nothing
  // when it is gone.
  std::optional<Revision> Use(uint64_t listing, absl::Time now);
  void Close(AddressSpace& space, uint64_t listing);
  // Ends what nobody has used for too long, and everything when keeping it costs
  // more than `max_buried` mappings.
  void Sweep(AddressSpace& space, absl::Time now, size_t max_buried);
  bool empty() const { return open_.empty(); }

 private:
  struct Listing {
    Revision revision;
    absl::Time used;
  };

  const Bounds bounds_;
  std::map<uint64_t, Listing> open_;
  uint64_t next_ = 1;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_LISTINGS_H_
