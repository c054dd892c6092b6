#include "tests/bench/watchers.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>

#include "iovad/v1/address_space.grpc.pb.h"
#include "tests/bench/bench_server.h"

namespace iovad::bench {
namespace {

struct Begin {
  char address[108];
  char space[64];
  int count;
};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "watchers: %s\n", why.c_str());
  _exit(1);
}

// How many watchers have got how far.
class Progress {
 public:
  explicit Progress(int watchers) : watchers_(watchers) {}

  void Reached(uint64_t revision) {
    const std::lock_guard lock(mu_);
    while (first_ + reached_.size() <= revision) reached_.push_back(0);
    if (++reached_[revision - first_] == watchers_) all_.notify_all();
  }
  void WaitForAll(uint64_t revision) {
    std::unique_lock lock(mu_);
    all_.wait(lock, [&] {
      return revision - first_ < reached_.size() && reached_[revision - first_] == watchers_;
    });
  }

 private:
  const int watchers_;
  const uint64_t first_ = 1;
  std::mutex mu_;
  std::condition_variable all_;
  std::deque<int> reached_;  // by revision
};

class Watch final : public grpc::ClientReadReactor<v1::WatchResponse> {
 public:
  Watch(const Begin& begin, Progress& progress) : progress_(progress) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::AddressSpaceService::NewStub(
        grpc::CreateCustomChannel(begin.address, grpc::InsecureChannelCredentials(), arguments));
    request_.set_space(begin.space);
    stub_->async()->Watch(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.revision() != ++revision_) {
      Fail("revision " + std::to_string(response_.revision()) + " after " +
           std::to_string(revision_ - 1));
    }
    progress_.Reached(revision_);
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override { Fail(status.error_message()); }

 private:
  Progress& progress_;
  std::unique_ptr<v1::AddressSpaceService::Stub> stub_;
  grpc::ClientContext context_;
  v1::WatchRequest request_;
  v1::WatchResponse response_;
  uint64_t revision_ = 0;
};

// Does what the other end says until it is killed.
[[noreturn]] void Serve(int in, int out, int core) {
  PinTo(core);
  // A connection each.
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  Begin begin = {};
  if (read(in, &begin, sizeof(begin)) != sizeof(begin)) _exit(0);
  Progress progress(begin.count);
  std::deque<Watch> watches;
  for (int i = 0; i < begin.count; ++i) watches.emplace_back(begin, progress);
  uint64_t revision = 0;
  while (read(in, &revision, sizeof(revision)) == sizeof(revision)) {
    progress.WaitForAll(revision);
    if (write(out, &revision, sizeof(revision)) != sizeof(revision)) break;
  }
  _exit(0);
}

}  // namespace

Watchers::Watchers(int core) {
  int to[2];
  int from[2];
  if (pipe(to) != 0 || pipe(from) != 0) std::abort();
  pid_ = fork();
  if (pid_ == 0) {
    close(to[1]);
    close(from[0]);
    Serve(to[0], from[1], core);
  }
  close(to[0]);
  close(from[1]);
  to_ = to[1];
  from_ = from[0];
}

Watchers::~Watchers() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  close(to_);
  close(from_);
}

void Watchers::Watch(const std::string& address, const std::string& space, int count) {
  Begin begin = {.address = {}, .space = {}, .count = count};
  std::strncpy(begin.address, address.c_str(), sizeof(begin.address) - 1);
  std::strncpy(begin.space, space.c_str(), sizeof(begin.space) - 1);
  if (write(to_, &begin, sizeof(begin)) != sizeof(begin)) std::abort();
  WaitFor(1);
}

void Watchers::WaitFor(uint64_t revision) {
  if (write(to_, &revision, sizeof(revision)) != sizeof(revision) ||
      read(from_, &revision, sizeof(revision)) != sizeof(revision)) {
    std::fprintf(stderr, "the watchers are gone\n");
    std::exit(1);
  }
}

}  // namespace iovad::bench
