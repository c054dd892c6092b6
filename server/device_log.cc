#include "server/device_log.h"

#include <algorithm>
#include <utility>

namespace iovad {

void DeviceLog::Append(Entry entry) {
  const MutexLock lock(mu_);
  entry.sequence = ++appended_;
  if (entries_.size() == kKept) entries_.pop_front();
  entries_.push_back(std::move(entry));
}

DeviceLog::Excerpt DeviceLog::Last(size_t last) const {
  const MutexLock lock(mu_);
  const size_t count = last == 0 ? entries_.size() : std::min(last, entries_.size());
  Excerpt excerpt;
  excerpt.entries.assign(entries_.end() - static_cast<std::ptrdiff_t>(count), entries_.end());
  excerpt.dropped = appended_ - entries_.size();
  return excerpt;
}

}  // namespace iovad
