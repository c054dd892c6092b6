#include "server/event_thread.h"

#include <errno.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

namespace iovad {
namespace {

// Of the eventfd; entries count from 1.
constexpr uint64_t kWakeId = 0;

bool Add(const UniqueFd& epoll, const UniqueFd& fd, uint64_t id) {
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = id}};
  return epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd.get(), &event) == 0;
}

}  // namespace

EventThread::EventThread()
    : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  Add(epoll_, wake_, kWakeId);
  thread_ = std::thread([this] { Run(); });
}

EventThread::~EventThread() { Stop(); }

void EventThread::Stop() {
  {
    const MutexLock lock(mu_);
    stopping_ = true;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
}

EventThread::Subscription EventThread::OnReadable(std::shared_ptr<const UniqueFd> fd,
                                                  Callback callback) {
  const MutexLock lock(mu_);
  const uint64_t id = next_id_++;
  bool added = Add(epoll_, *fd, id);
  if (!added && errno == EEXIST) {
    // Somebody waits for it already, and the kernel takes each number once.
    fd = std::make_shared<const UniqueFd>(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
    added = *fd && Add(epoll_, *fd, id);
  }
  if (!added) {
    spdlog::error("a file cannot be waited for: {}", strerror(errno));
    return {};
  }
  entries_.emplace(id, Entry{.callback = std::move(callback), .fd = std::move(fd)});
  return Subscription(this, id);
}

EventThread::Subscription EventThread::At(Clock::time_point time, Callback callback) {
  uint64_t id = 0;
  {
    const MutexLock lock(mu_);
    id = next_id_++;
    entries_.emplace(id, Entry{.callback = std::move(callback), .time = time});
    times_.emplace(time, id);
    if (times_.begin()->second != id) return Subscription(this, id);
  }
  Wake();
  return Subscription(this, id);
}

void EventThread::Wake() {
  const uint64_t one = 1;
  // Full means that it is awake already.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

int EventThread::TimeoutMilliseconds() const {
  if (times_.empty()) return -1;
  const auto until =
      std::chrono::ceil<std::chrono::milliseconds>(times_.begin()->first - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(until, 0, std::numeric_limits<int>::max()));
}

void EventThread::Run() {
  std::array<epoll_event, 64> ready;
  std::vector<uint64_t> due;
  while (true) {
    int timeout = 0;
    {
      const MutexLock lock(mu_);
      if (stopping_) return;
      timeout = TimeoutMilliseconds();
    }
    const int count =
        epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), timeout);
    due.clear();
    for (int i = 0; i < count; ++i) {
      const uint64_t id = ready[i].data.u64;  // a copy: the struct is packed
      if (id != kWakeId) due.push_back(id);
    }
    uint64_t woken = 0;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &woken, sizeof(woken));
    {
      const MutexLock lock(mu_);
      const Clock::time_point now = Clock::now();
      for (const auto& [time, id] : times_) {
        if (time > now) break;
        due.push_back(id);
      }
    }
    for (const uint64_t id : due) Call(id);
  }
}

void EventThread::Call(uint64_t id) {
  Callback callback;
  {
    const MutexLock lock(mu_);
    if (stopping_) return;
    Entries::node_type entry = Take(id);
    if (entry.empty()) return;
    callback = std::move(entry.mapped().callback);
    running_ = id;
    caller_ = std::this_thread::get_id();
  }
  callback();
  callback = nullptr;  // what it held goes before anybody stops waiting for it
  const MutexLock lock(mu_);
  running_ = 0;
  called_.NotifyAll();
}

EventThread::Entries::node_type EventThread::Take(uint64_t id) {
  Entries::node_type entry = entries_.extract(id);
  if (entry.empty()) return entry;
  const UniqueFd* fd = entry.mapped().fd.get();
  if (fd != nullptr) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd->get(), nullptr);
  } else {
    times_.erase({entry.mapped().time, id});
  }
  return entry;
}

void EventThread::Remove(uint64_t id) {
  // Destroyed last, without the lock: it may hold what has subscriptions of its own.
  Entries::node_type removed;
  const MutexLock lock(mu_);
  removed = Take(id);
  while (running_ == id && caller_ != std::this_thread::get_id()) called_.Wait(mu_);
}

}  // namespace iovad
