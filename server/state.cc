#include "server/state.h"

#include <spdlog/spdlog.h>
#include <time.h>

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"

namespace iovad {
namespace {

// Where the numbers of batches begin. A store is of one boot of the host, and no run
// gives out a number each microsecond: so none of them comes twice, and nothing needs
// to be kept.
uint64_t MicrosecondsSinceBoot() {
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

// The epoch that the store has, or is given.
absl::StatusOr<std::string> EpochOf(store::StateStore& store) {
  const absl::StatusOr<std::shared_ptr<store::Snapshot>> kept = store.TakeSnapshot();
  if (!kept.ok()) return kept.status();
  absl::StatusOr<std::optional<std::string>> found =
      (*kept)->Get(store::Table::kEpoch, store::kServer, 0);
  if (!found.ok()) return found.status();
  if (found->has_value()) return **std::move(found);
  std::string epoch = RandomId();
  store::WriteBatch batch;
  batch.UseReserve();
  batch.PutBlob(store::Table::kEpoch, store::kServer, 0, epoch);
  absl::Status committed;
  absl::Notification done;
  store.Commit(std::move(batch), [&](const absl::Status& status) {
    committed = status;
    done.Notify();
  });
  done.WaitForNotification();
  if (!committed.ok()) return committed;
  return epoch;
}

}  // namespace

std::string RandomId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppendFormat(&id, "%08x", random());
  return id;
}

State::State(std::unique_ptr<store::StateStore> store, std::string epoch,
             std::unique_ptr<FdStore> fds)
    : store_(std::move(store)),
      epoch_(std::move(epoch)),
      fds_(std::move(fds)),
      next_batch_(MicrosecondsSinceBoot()) {}

absl::StatusOr<std::unique_ptr<State>> State::Open(const Config& config) {
  // First, before the store has threads.
  auto fds = std::make_unique<FdStore>(config.ephemeral ? FdStoreUse::kOff : config.fd_store);
  if (config.ephemeral) return std::make_unique<State>(nullptr, RandomId(), std::move(fds));
  absl::StatusOr<std::string> boot_id = store::ReadBootId();
  if (!boot_id.ok()) return boot_id.status();
  absl::StatusOr<std::unique_ptr<store::StateStore>> opened =
      store::StateStore::Open({.directory = config.state_dir,
                               .boot_id = *std::move(boot_id),
                               .fold_bytes = config.limits.journal_bytes});
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
  absl::StatusOr<std::string> epoch = EpochOf(**opened);
  if (!epoch.ok()) return epoch.status();
  return std::make_unique<State>(*std::move(opened), *std::move(epoch), std::move(fds));
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

uint64_t State::FindDeviceNumber(const std::string& name) {
  const MutexLock lock(mu_);
  const auto it = devices_.find(name);
  return it == devices_.end() ? 0 : it->second;
}

void State::DropDeviceNumber(const std::string& name) {
  const MutexLock lock(mu_);
  devices_.erase(name);
}

}  // namespace iovad
