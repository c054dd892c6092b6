// Which of several mappings over a byte answers for it.
//
// Purpose. Guest memory may be mapped several times, so an HVA may have several answers.
// The API's rule: of the mappings that permit the access, the one that covers the longest
// stretch of what is asked for; of several, the one with the lowest IOVA. It is here, and
// nowhere else.
//
// Thread safety. Values.
//
// Example:
//   BestByHva chooser(query, Access::kReadOnly);
//   for (const Mapping& m : ...over the first byte...) chooser.Offer(m);
//   chooser.match().best;
#ifndef IOVAD_CORE_HVA_MATCH_H_
#define IOVAD_CORE_HVA_MATCH_H_

#include <algorithm>
#include <cstdint>
#include <optional>

#include "core/mapping.h"
#include "core/types.h"

namespace iovad {

struct HvaMatch {
  const Mapping* best = nullptr;  // null: none permits the access
  uint32_t covering = 0;          // mappings over the first byte, of any access
};

class BestByHva {
 public:
  // Of what lies over the first byte of `query`; nothing wanted: any access.
  BestByHva(HvaRange query, std::optional<Access> wanted) : query_(query), wanted_(wanted) {}

  void Offer(const Mapping& mapping) {
    OfferIf(mapping.access(), mapping.hva().last(), [&mapping] { return &mapping; });
  }
  // As that, for a mapping of which some is known: `get()` is asked for it only when it
  // may be the best.
  template <typename Get>
  void OfferIf(Access access, Hva last, Get get) {
    ++match_.covering;
    if (wanted_.has_value() && !Permits(access, *wanted_)) return;
    last = std::min(last, query_.last());
    if (match_.best != nullptr && last < last_) return;
    const Mapping* const mapping = get();
    if (match_.best != nullptr && last == last_ &&
        match_.best->iova().first() < mapping->iova().first()) {
      return;
    }
    match_.best = mapping;
    last_ = last;
  }

  const HvaMatch& match() const { return match_; }

 private:
  const HvaRange query_;
  const std::optional<Access> wanted_;
  HvaMatch match_;
  Hva last_;  // of the stretch that the best one covers
};

}  // namespace iovad

#endif  // IOVAD_CORE_HVA_MATCH_H_
