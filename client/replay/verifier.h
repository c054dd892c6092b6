// Holds a server against the model of what ought to be live.
//
// Purpose. After a batch: does every live section translate, by GPA and by IOVA,
// at its first, last and a middle byte; is each alias found by HVA; do no two IOVA
// ranges meet; and does the server list exactly what is live?
//
// Thread safety. One thread.
//
// Example:
//   Verifier verifier(&connection, "vm1");
//   absl::Status status = verifier.Check(model);
//   absl::IsDataLoss(status);   // the server is wrong; other errors: not reached
#ifndef IOVAD_CLIENT_REPLAY_VERIFIER_H_
#define IOVAD_CLIENT_REPLAY_VERIFIER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "client/replay/model.h"

namespace iovad::replay {

class Verifier {
 public:
  Verifier(client::Connection* connection, std::string space)
      : connection_(connection), space_(std::move(space)) {}

  // Remembers what is gone, to be asked for in the next `Check`.
  void Removed(const std::vector<Section>& sections) {
    gone_.insert(gone_.end(), sections.begin(), sections.end());
  }

  // DATA_LOSS, with the first difference, when the server is not as `model` is.
  absl::Status Check(const Model& model);

  uint64_t checks() const { return checks_; }
  uint64_t translations() const { return translations_; }

 private:
  // A query, and what must come back.
  struct Expectation {
    v1::Query query;
    // Absent: nothing may be mapped at the first byte.
    const Section* section = nullptr;
    // From the section's start to the query's first byte.
    uint64_t offset = 0;
    uint32_t alias_count = 0;
  };

  absl::Status CheckListing(const Model& model);
  absl::Status CheckTranslations(const Model& model);
  // Appends what the section is to be asked for.
  void ExpectSection(const Model& model, const Section& section, std::vector<Expectation>& out);
  void ExpectGone(const Model& model, std::vector<Expectation>& out);
  absl::Status Ask(const Expectation* begin, const Expectation* end);

  client::Connection* connection_;
  std::string space_;
  std::vector<Section> gone_;
  uint64_t checks_ = 0;
  uint64_t translations_ = 0;
};

// What differs between an answer and the section that it should be; empty:
// nothing.
std::string Difference(const v1::Mapping& mapping, const Section& section);

v1::Access ToProto(Access access);

}  // namespace iovad::replay

#endif  // IOVAD_CLIENT_REPLAY_VERIFIER_H_
