#include "server/labels_change.h"

#include <string>
#include <utility>

#include "server/space.h"
#include "server/space_options.h"

namespace iovad {

absl::Status Space::EditLabels(const Change& change,
                               const std::function<absl::Status(Labels&)>& edit) {
  {
    const WriterLock lock(mu_);
    if (absl::Status s = CheckChange(change); !s.ok()) return s;
    Labels labels = labels_;
    if (absl::Status s = edit(labels); !s.ok()) return s;
    labels_ = std::move(labels);
  }
  NotifyChanged();
  return absl::OkStatus();
}

void LabelsChange::Run(Space& space, const std::function<void(absl::Status)>& done) {
  Labels before;
  const absl::Status edited = space.EditLabels(*this, [&](Labels& labels) {
    before = labels;
    for (const std::string& key : request_.remove_labels()) labels.erase(key);
    for (const auto& [key, value] : request_.labels()) labels.insert_or_assign(key, value);
    return CheckLabels(labels, space.prefix());
  });
  if (!edited.ok()) return done(edited);
  space.Describe(*response_.mutable_space());
  space.Keep([&](store::WriteBatch& batch) { repeats_->Keep(space.number(), response_, batch); },
             [this, &space, done, before = std::move(before)](const absl::Status& kept) {
               if (!kept.ok()) {
                 // No other change of the space had its turn meanwhile.
                 (void)space.EditLabels(*this, [&](Labels& labels) {
                   labels = before;
                   return absl::OkStatus();
                 });
               }
               done(kept);
             });
}

void LabelsChange::Finish(const absl::Status& status) {
  repeats_->End(status, response_);
  finished_(status);
}

}  // namespace iovad
