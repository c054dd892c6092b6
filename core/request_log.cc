#include "core/request_log.h"

#include <algorithm>
#include <utility>

namespace iovad {

uint64_t RequestLog::BytesOf(const std::string& id, const Entry& entry) {
  return id.size() + entry.digest.size() + entry.answer->size();
}

RequestLog::Claim RequestLog::Begin(const std::string& id, const std::string& digest,
                                    absl::Time now) {
  const MutexLock lock(mu_);
  DropOld(now);
  const auto [it, is_new] = entries_.try_emplace(id, Entry{.digest = digest});
  if (is_new) return {.state = Claim::State::kNew};
  if (it->second.digest != digest) return {.state = Claim::State::kReused};
  if (it->second.answer == nullptr) return {.state = Claim::State::kRunning};
  return {.state = Claim::State::kAnswered, .answer = it->second.answer};
}

uint64_t RequestLog::NextSequence(const std::string& id) {
  const MutexLock lock(mu_);
  Entry& entry = entries_.at(id);
  sequences_.erase(entry.sequence);
  entry.sequence = next_sequence_++;
  sequences_.insert(entry.sequence);
  return entry.sequence;
}

uint64_t RequestLog::OldestSequence() const {
  const MutexLock lock(mu_);
  return sequences_.empty() ? next_sequence_ : *sequences_.begin();
}

void RequestLog::Restore(Answered answered, uint64_t sequence) {
  const MutexLock lock(mu_);
  next_sequence_ = std::max(next_sequence_, sequence + 1);
  const std::string id = answered.id;
  const auto [it, is_new] = entries_.try_emplace(id);
  if (!is_new) return;
  it->second = {.digest = std::move(answered.digest),
                .answer = std::make_shared<const std::string>(std::move(answered.answer)),
                .time = answered.time,
                .sequence = sequence};
  bytes_ += BytesOf(id, it->second);
  answered_.push_back(id);
  sequences_.insert(sequence);
}

void RequestLog::Record(const std::string& id, std::string answer, absl::Time now) {
  const MutexLock lock(mu_);
  Entry& entry = entries_.at(id);
  entry.answer = std::make_shared<const std::string>(std::move(answer));
  entry.time = now;
  bytes_ += BytesOf(id, entry);
  answered_.push_back(id);
  DropOld(now);
}

void RequestLog::Forget(const std::string& id) {
  const MutexLock lock(mu_);
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  sequences_.erase(it->second.sequence);
  entries_.erase(it);
}

void RequestLog::DropOld(absl::Time now) {
  while (!answered_.empty()) {
    const auto oldest = entries_.find(answered_.front());
    if (now - oldest->second.time < bounds_.age && answered_.size() <= bounds_.count &&
        bytes_ <= bounds_.bytes) {
      return;
    }
    bytes_ -= BytesOf(oldest->first, oldest->second);
    sequences_.erase(oldest->second.sequence);
    entries_.erase(oldest);
    answered_.pop_front();
  }
}

uint64_t RequestLog::size() const {
  const MutexLock lock(mu_);
  return answered_.size();
}

uint64_t RequestLog::bytes() const {
  const MutexLock lock(mu_);
  return bytes_;
}

}  // namespace iovad
