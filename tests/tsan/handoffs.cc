// Tells ThreadSanitizer of the synchronization inside gRPC. Linked into every
// program of a build with IOVAD_SANITIZE=thread, and into no other.
//
// Debian's gRPC and Abseil are not instrumented. ThreadSanitizer sees neither
// absl::Mutex nor the hand-over of an operation from the thread that starts it to
// the one that completes it, and would report every object that travels this way,
// our own reactors included. Suppressing that by name would silence real races in
// every RPC handler, as gRPC is on all their stacks. So the few functions through
// which gRPC locks and hands over are wrapped here, and say what they order:
//  - what is unlocked happens before what is locked next;
//  - starting an operation happens before its completion, by its tag;
//  - all callbacks of a call on a server happen before the last one, OnDone.
// What remains is the access to memory from inside the uninstrumented libraries:
// TSAN_OPTIONS=ignore_noninstrumented_modules=1.
//
// The wrappers come before the libraries' own functions because a program's
// symbols do; those are found with RTLD_NEXT.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpcpp/support/server_callback.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

extern "C" {
void __tsan_acquire(void* address);  // NOLINT(bugprone-reserved-identifier)
void __tsan_release(void* address);  // NOLINT(bugprone-reserved-identifier)
}

namespace {

// The function that this file's one of the same name hides.
template <typename Function>
Function Hidden(const char* symbol) {
  void* const found = dlsym(RTLD_NEXT, symbol);
  if (found == nullptr) {
    std::fprintf(stderr, "tests/tsan/handoffs.cc: no %s: another version of the library?\n",
                 symbol);
    std::abort();
  }
  return reinterpret_cast<Function>(found);
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto real = Hidden<void (*)(Mutex*)>("_ZN4absl7debian35Mutex4LockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto real = Hidden<void (*)(Mutex*)>("_ZN4absl7debian35Mutex6UnlockEv");
  __tsan_release(this);
  real(this);
}

bool Mutex::TryLock() {
  static const auto real = Hidden<bool (*)(Mutex*)>("_ZN4absl7debian35Mutex7TryLockEv");
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void CondVar::Wait(Mutex* mu) {
  static const auto real =
      Hidden<void (*)(CondVar*, Mutex*)>("_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mu);
  real(this, mu);
  __tsan_acquire(mu);
}

bool CondVar::WaitWithTimeout(Mutex* mu, Duration timeout) {
  static const auto real = Hidden<bool (*)(CondVar*, Mutex*, Duration)>(
      "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mu);
  const bool timed_out = real(this, mu, timeout);
  __tsan_acquire(mu);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mu, Time deadline) {
  static const auto real = Hidden<bool (*)(CondVar*, Mutex*, Time)>(
      "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mu);
  const bool timed_out = real(this, mu, deadline);
  __tsan_acquire(mu);
  return timed_out;
}

ABSL_NAMESPACE_END
}  // namespace absl

namespace grpc::internal {

// The count of callbacks says that this is the last. Each lets go of it in code that is
// seen, but the last may do so in the library. That hands a call which cannot be ended
// right here to a thread of its executor, unseen; a new thread is seen.
void ServerCallbackCall::ScheduleOnDone(bool inline_ondone) {
  (void)callbacks_outstanding_.load(std::memory_order_acquire);
  if (inline_ondone) {
    CallOnDone();
  } else {
    std::thread([this] { CallOnDone(); }).detach();
  }
}

}  // namespace grpc::internal

extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t nops, void* tag,
                                      void* reserved) {
  static const auto real = Hidden<decltype(&grpc_call_start_batch)>("grpc_call_start_batch");
  if (tag != nullptr) __tsan_release(tag);
  return real(call, ops, nops, tag, reserved);
}

// An event's tag means something only when an operation has completed.
grpc_event grpc_completion_queue_next(grpc_completion_queue* cq, gpr_timespec deadline,
                                      void* reserved) {
  static const auto real =
      Hidden<decltype(&grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = real(cq, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE && event.tag != nullptr) __tsan_acquire(event.tag);
  return event;
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* cq, void* tag, gpr_timespec deadline,
                                       void* reserved) {
  static const auto real =
      Hidden<decltype(&grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = real(cq, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE && event.tag != nullptr) __tsan_acquire(event.tag);
  return event;
}

}  // extern "C"
