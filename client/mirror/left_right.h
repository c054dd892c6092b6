// Two copies of a thing: readers read one while the other is changed.
//
// Purpose. Readers never wait, whatever the writer does, and see each change as a whole.
// The writer changes the idle copy, makes it the one that is read, and before it changes
// the other one, waits for the readers that are still in there. (The scheme is known as
// Left-Right: Ramalhete and Correia, 2015.)
//
// A reader counts itself in a slot of the processor that it runs on, so that readers on
// different processors share no cache line. Which of two counters it takes is the
// version's: the writer turns the version before it waits, so that it waits for those
// who may have the old copy, and not for ever new ones.
//
// Thread safety. Reading from any number of threads and in signal handlers; `Idle` and
// `Publish` by one thread.
//
// Invariants.
//  1. A reader is in no copy that `Idle` has returned and that is not published since.
//  2. Readers do a constant number of steps; the writer waits for readers, which must
//     not be long.
//
// Example:
//   LeftRight<int> both;
//   both.Idle() = 1;
//   both.Publish();
//   const LeftRight<int>::Reading now(both);
//   *now;    // 1
#ifndef IOVAD_CLIENT_MIRROR_LEFT_RIGHT_H_
#define IOVAD_CLIENT_MIRROR_LEFT_RIGHT_H_

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

namespace iovad::client {

template <typename T>
class LeftRight {
 public:
  LeftRight()
      : slot_mask_(std::bit_ceil(std::clamp(std::thread::hardware_concurrency(), 1u, 256u)) - 1),
        slots_(new Slot[slot_mask_ + 1]) {}
  LeftRight(const LeftRight&) = delete;
  LeftRight& operator=(const LeftRight&) = delete;

  // The copy that is read, as long as this lives.
  class Reading {
   public:
    explicit Reading(const LeftRight& of) : counter_(of.Enter()), copy_(of.Current()) {}
    ~Reading() { counter_.fetch_sub(1); }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    const T& operator*() const { return copy_; }
    const T* operator->() const { return &copy_; }

   private:
    std::atomic<uint32_t>& counter_;
    const T& copy_;
  };

  // The copy that nobody reads, to be changed. Waits for those who still do.
  T& Idle() {
    if (!idle_is_free_) {
      const int version = version_.load();
      AwaitReaders(1 - version);
      version_.store(1 - version);
      AwaitReaders(version);
      idle_is_free_ = true;
    }
    return copies_[1 - current_.load()];
  }

  // From here on, the idle copy is the one that is read.
  void Publish() {
    current_.store(1 - current_.load());
    idle_is_free_ = false;
  }

 private:
  struct alignas(64) Slot {
    std::atomic<uint32_t> readers[2] = {0, 0};
  };

  // All of this is sequentially consistent, which is what it rests on: who counted
  // itself after the writer looked at its counter reads the new `current_`.
  std::atomic<uint32_t>& Enter() const {
    const auto cpu = static_cast<unsigned>(sched_getcpu());
    std::atomic<uint32_t>& counter = slots_[cpu & slot_mask_].readers[version_.load()];
    counter.fetch_add(1);
    return counter;
  }
  const T& Current() const { return copies_[current_.load()]; }

  void AwaitReaders(int version) const {
    for (unsigned i = 0; i <= slot_mask_; ++i) {
      for (int tries = 0; slots_[i].readers[version].load() != 0; ++tries) {
        if (tries < kSpins) continue;
        // A reader that was interrupted: let it run.
        if (tries < kSpins + kYields) {
          std::this_thread::yield();
        } else {
          std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
      }
    }
  }

  static constexpr int kSpins = 100;
  static constexpr int kYields = 20;

  const unsigned slot_mask_;
  const std::unique_ptr<Slot[]> slots_;
  alignas(64) std::atomic<int> version_ = 0;
  std::atomic<int> current_ = 0;
  // Of the writer: nobody is in the idle copy any more.
  bool idle_is_free_ = true;
  T copies_[2] = {};
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_MIRROR_LEFT_RIGHT_H_
