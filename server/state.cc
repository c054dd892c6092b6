#include "server/state.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace iovad {

absl::StatusOr<std::unique_ptr<State>> State::Open(const Config& config) {
  if (config.ephemeral) return std::make_unique<State>();
  absl::StatusOr<std::string> boot_id = store::ReadBootId();
  if (!boot_id.ok()) return boot_id.status();
  absl::StatusOr<std::unique_ptr<store::StateStore>> opened =
      store::StateStore::Open({.directory = config.state_dir, .boot_id = *std::move(boot_id)});
  if (!opened.ok()) return opened.status();
  const store::StateStore::Report& report = (*opened)->report();
  switch (report.found) {
    case store::StateStore::Found::kNothing:
      spdlog::info("{}: nothing is kept there yet", config.state_dir);
      break;
    case store::StateStore::Found::kStore:
      spdlog::info("{}: taking up what is kept there", config.state_dir);
      break;
    case store::StateStore::Found::kOtherBoot:
      spdlog::warn(
          "{}: what is kept there is of another boot of this host, when every device and all "
          "pinned memory went: set aside as {}, beginning with nothing",
          config.state_dir, report.set_aside);
      break;
  }
  for (const std::string& note : report.notes) spdlog::warn("{}: {}", config.state_dir, note);
  return std::make_unique<State>(*std::move(opened));
}

void State::Commit(store::WriteBatch batch, std::function<void(const absl::Status&)> done) {
  if (store_ == nullptr || batch.empty()) return done(absl::OkStatus());
  store_->Commit(std::move(batch), std::move(done));
}

store::SpaceNumber State::NewSpaceNumber() {
  const MutexLock lock(mu_);
  return store::SpaceNumber(next_space_++);
}

void State::TakeSpaceNumber(store::SpaceNumber number) {
  const MutexLock lock(mu_);
  next_space_ = std::max(next_space_, number.value() + 1);
}

uint64_t State::DeviceNumber(const std::string& name) {
  const MutexLock lock(mu_);
  const auto [it, is_new] = devices_.try_emplace(name, next_device_);
  if (is_new) ++next_device_;
  return it->second;
}

void State::TakeDeviceNumber(const std::string& name, uint64_t number) {
  const MutexLock lock(mu_);
  devices_.insert_or_assign(name, number);
  next_device_ = std::max(next_device_, number + 1);
}

uint64_t State::DropDeviceNumber(const std::string& name) {
  const MutexLock lock(mu_);
  const auto it = devices_.find(name);
  if (it == devices_.end()) return 0;
  const uint64_t number = it->second;
  devices_.erase(it);
  return number;
}

}  // namespace iovad
