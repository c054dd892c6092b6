// A thread of the library's in somebody else's process.
//
// Thread safety. A free function.
#ifndef IOVAD_CLIENT_QUIET_THREAD_H_
#define IOVAD_CLIENT_QUIET_THREAD_H_

#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX's, not C's

#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace iovad::client {

// A thread that runs `f()` under `name` (at most 15 characters), and on which none of the
// program's signals is handled. RESOURCE_EXHAUSTED when there is none to be had.
template <typename F>
absl::StatusOr<std::thread> StartQuietThread(const char* name, F f) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::StatusOr<std::thread> thread;
  try {
    thread = std::thread([name, f = std::move(f)] {
      pthread_setname_np(pthread_self(), name);
      f();
    });
  } catch (const std::system_error& error) {
    thread = absl::ResourceExhaustedError(absl::StrCat("no thread ", name, ": ", error.what()));
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_QUIET_THREAD_H_
