#include "server/replay.h"

#include <utility>
#include <vector>

#include "server/attachment_change.h"

namespace iovad {
namespace {

struct ReplayChain : std::enable_shared_from_this<ReplayChain> {
  std::vector<std::pair<PushTarget, std::shared_ptr<Space>>> left;
  std::function<void(const absl::Status&)> done;
  absl::Status first_error;

  void Next() {
    if (left.empty()) return done(first_error);
    const auto [target, space] = std::move(left.back());
    left.pop_back();
    const auto self = shared_from_this();
    space->Submit(std::make_unique<ReplayChange>(target, [self](const absl::Status& status) {
      if (self->first_error.ok()) self->first_error = status;
      self->Next();
    }));
  }
};

}  // namespace

void ReplayAttachments(const Registry& registry, std::shared_ptr<Device> device,
                       std::function<void(const absl::Status&)> done) {
  auto chain = std::make_shared<ReplayChain>();
  for (const auto& [asid, space] : registry.AttachedTo(device->name())) {
    chain->left.emplace_back(PushTarget{.device = device, .asid = asid}, space);
  }
  chain->done = std::move(done);
  chain->Next();
}

}  // namespace iovad
