#include "client/iovactl/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace iovad::ctl {

Interrupt::Interrupt(Also also) : also_(also) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, &before_);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC);
  end_ = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread([this] { Wait(); });
}

Interrupt::~Interrupt() {
  const uint64_t one = 1;
  // An eventfd takes a 1 always.
  [[maybe_unused]] const ssize_t written = write(end_, &one, sizeof(one));
  thread_.join();
  close(end_);
  close(signals_);
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void Interrupt::OnSignal(std::function<void()> function) {
  std::function<void()> run_now;
  {
    MutexLock lock(mutex_);
    if (seen_.load()) {
      run_now = std::move(function);
    } else {
      function_ = std::move(function);
    }
  }
  if (run_now) run_now();
}

void Interrupt::Call() {
  std::function<void()> function;
  {
    MutexLock lock(mutex_);
    seen_.store(true);
    function = std::move(function_);
  }
  if (function) function();
}

void Interrupt::Wait() {
  // Of standard output only POLLERR is of interest, which needs no asking.
  const int reader = also_ == Also::kReaderGone ? STDOUT_FILENO : -1;
  pollfd fds[] = {{signals_, POLLIN, 0}, {end_, POLLIN, 0}, {reader, 0, 0}};
  while (true) {
    if (poll(fds, 3, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    if (fds[2].revents != 0) {
      fds[2].fd = -1;  // it stays so
      if (!seen_.load()) Call();
    }
    if (fds[0].revents == 0) continue;
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) != sizeof(info)) continue;
    // Whoever presses twice does not want to wait.
    if (seen_.load()) _exit(128 + static_cast<int>(info.ssi_signo));
    Call();
  }
}

}  // namespace iovad::ctl
