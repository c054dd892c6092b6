// Tells a process from a child that it forked.
//
// Purpose. gRPC has threads and locks that a forked child gets in whatever state they
// are in, and without the threads. A call in the child would hang; so it is noticed and
// refused. The mark is a page that the kernel clears in a child (MADV_WIPEONFORK), so
// asking costs one load and no system call.
//
// Thread safety. Thread-safe, and safe in a signal handler.
//
// Invariants.
//  1. Where the kernel cannot do that (before 4.14), no process is taken for a child.
//
// Example:
//   ForkMark mark;
//   if (fork() == 0) mark.InChild();   // true
#ifndef IOVAD_CLIENT_FORK_MARK_H_
#define IOVAD_CLIENT_FORK_MARK_H_

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace iovad::client {

class ForkMark {
 public:
  ForkMark() : size_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* const page =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return;
    if (madvise(page, size_, MADV_WIPEONFORK) != 0) {
      munmap(page, size_);
      return;
    }
    mark_ = new (page) std::atomic<int>(1);
  }
  ~ForkMark() {
    if (mark_ != nullptr) munmap(mark_, size_);
  }
  ForkMark(const ForkMark&) = delete;
  ForkMark& operator=(const ForkMark&) = delete;

  bool InChild() const { return mark_ != nullptr && mark_->load(std::memory_order_relaxed) == 0; }

 private:
  const size_t size_;
  std::atomic<int>* mark_ = nullptr;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_FORK_MARK_H_
