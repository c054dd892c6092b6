#include "server/point_groups.h"

#include <memory>
#include <utility>

#include "server/push.h"

namespace iovad {
namespace {

struct Pointing : std::enable_shared_from_this<Pointing> {
  struct Step {
    std::shared_ptr<Device> device;
    std::vector<Device::GroupPlace> places;
  };
  std::string space;
  std::vector<Step> left;
  std::vector<Step> back;  // what takes back what was done
  std::function<void(const absl::Status&, const std::function<void()>&)> done;

  void Next() {
    if (left.empty()) {
      return done(absl::OkStatus(), [self = shared_from_this()] {
        self->done = [](auto&&...) {};
        self->Back(absl::OkStatus());
      });
    }
    Step step = std::move(left.back());
    left.pop_back();
    step.device->SetGroups(step.places,
                           [self = shared_from_this(), device = step.device](
                               const PushOutcome& outcome, std::vector<Device::GroupPlace> before) {
                             if (!outcome.ok()) {
                               return self->Back(PushRefused(outcome, device->name(), self->space));
                             }
                             self->back.push_back({.device = device, .places = std::move(before)});
                             self->Next();
                           });
  }

  void Back(const absl::Status& why) {
    if (back.empty()) return done(why, [] {});
    Step step = std::move(back.back());
    back.pop_back();
    step.device->SetGroups(std::move(step.places),
                           [self = shared_from_this(), why](auto&&...) { self->Back(why); });
  }
};

}  // namespace

void PointGroups(const Registry& registry, std::string space,
                 const std::vector<Registry::AttachTo>& attach_to,
                 std::function<void(const absl::Status&, const std::function<void()>& undo)> done) {
  auto pointing = std::make_shared<Pointing>();
  pointing->space = std::move(space);
  pointing->done = std::move(done);
  for (const Registry::AttachTo& to : attach_to) {
    const absl::StatusOr<std::shared_ptr<Device>> device = registry.FindDevice(to.device);
    if (!device.ok() || to.groups.empty()) continue;
    Pointing::Step& step = pointing->left.emplace_back();
    step.device = *device;
    for (const uint32_t group : to.groups) {
      step.places.push_back({.group = group, .asid = to.asid});
    }
  }
  pointing->Next();
}

}  // namespace iovad
