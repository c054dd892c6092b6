#include "server/device_log.h"

#include <algorithm>
#include <utility>

namespace iovad {

void DeviceLog::Append(Batch batch) {
  const size_t count = batch.messages.size();
  if (count == 0) return;
  if (count > kKept) {
    batch.messages.erase(batch.messages.begin(),
                         batch.messages.end() - static_cast<std::ptrdiff_t>(kKept));
    batch.messages.shrink_to_fit();
  }
  const MutexLock lock(mu_);
  appended_ += count;
  held_ += batch.messages.size();
  batches_.push_back(std::move(batch));
  while (held_ - batches_.front().messages.size() >= kKept) {
    held_ -= batches_.front().messages.size();
    batches_.pop_front();
  }
}

DeviceLog::Excerpt DeviceLog::Last(size_t last) const {
  const MutexLock lock(mu_);
  const size_t kept = std::min(held_, kKept);
  const size_t count = last == 0 ? kept : std::min(last, kept);
  Excerpt excerpt;
  excerpt.dropped = appended_ - kept;
  excerpt.entries.reserve(count);
  size_t skip = held_ - count;
  for (const Batch& batch : batches_) {
    if (skip >= batch.messages.size()) {
      skip -= batch.messages.size();
      continue;
    }
    for (size_t i = std::exchange(skip, 0); i < batch.messages.size(); ++i) {
      excerpt.entries.push_back({.sequence = appended_ - count + excerpt.entries.size() + 1,
                                 .time = batch.time,
                                 .asid = batch.asid,
                                 .space = batch.space,
                                 .batch = batch.number,
                                 .message = batch.messages[i]});
    }
  }
  return excerpt;
}

}  // namespace iovad
