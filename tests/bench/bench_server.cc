#include "tests/bench/bench_server.h"

#include <sched.h>
#include <signal.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "server/daemon.h"
#include "server/logging.h"
#include "server/services.h"
#include "tests/bench/echo.grpc.pb.h"

namespace iovad::bench {
namespace {

class EchoServiceImpl final : public EchoService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const EchoRequest* request,
                                 EchoRequest* response) override {
    *response = *request;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerBidiReactor<EchoBatch, EchoBatch>* StreamEcho(
      grpc::CallbackServerContext* /*context*/) override {
    class Stream final : public grpc::ServerBidiReactor<EchoBatch, EchoBatch> {
     public:
      Stream() { StartRead(&batch_); }
      void OnReadDone(bool ok) override {
        if (ok) {
          StartWrite(&batch_);
        } else {
          Finish(grpc::Status::OK);
        }
      }
      // The message is reused, so its memory is too.
      void OnWriteDone(bool ok) override {
        if (ok) StartRead(&batch_);
      }
      void OnDone() override { delete this; }

     private:
      EchoBatch batch_;
    };
    return new Stream;
  }
};

// Serves until it is killed; says on `ready` when it does.
[[noreturn]] void Serve(const std::string& directory, BenchServer::Keeps keeps, int core,
                        int ready) {
  if (core != kAnyCore) PinTo(core);
  Config config;
  config.socket = directory + "/iovad.sock";
  config.state_dir = directory + "/state";
  config.ephemeral = keeps == BenchServer::Keeps::kNothing;
  DrainGate gate;
  const auto state = State::Open(config);
  if (!state.ok()) {
    std::fprintf(stderr, "%s\n", std::string(state.status().message()).c_str());
    _exit(1);
  }
  Services services(config, gate, **state);
  EchoServiceImpl echo;
  std::vector<NamedService> all = services.All();
  all.push_back({"iovad.bench.EchoService", &echo});
  const auto daemon = Daemon::Start(config, gate, all);
  if (!daemon.ok()) {
    std::fprintf(stderr, "%s\n", std::string(daemon.status().message()).c_str());
    _exit(1);
  }
  const char byte = 1;
  if (write(ready, &byte, 1) != 1) _exit(1);
  while (true) pause();
}

// A tmpfs, as /run is, where a server keeps its state if it is told nothing else.
std::string MemoryDirectory() {
  struct statvfs free = {};
  const bool roomy = statvfs("/dev/shm", &free) == 0 && free.f_bavail * free.f_frsize >= (1u << 30);
  return roomy ? "/dev/shm" : "/tmp";
}

}  // namespace

void PinTo(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

BenchServer::BenchServer(int core, Keeps keeps) {
  directory_ = MemoryDirectory() + "/iovad-bench-XXXXXX";
  if (mkdtemp(directory_.data()) == nullptr) std::abort();
  address_ = "unix:" + directory_ + "/iovad.sock";
  int ready[2];
  if (pipe(ready) != 0) std::abort();
  pid_ = fork();
  if (pid_ == 0) {
    close(ready[0]);
    Serve(directory_, keeps, core, ready[1]);
  }
  close(ready[1]);
  char byte = 0;
  const bool serves = read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  if (!serves) {
    std::fprintf(stderr, "the server did not start\n");
    std::exit(1);
  }
}

BenchServer::~BenchServer() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

absl::Duration BenchServer::CpuTime() const {
  clockid_t clock;
  timespec time = {};
  if (clock_getcpuclockid(pid_, &clock) != 0 || clock_gettime(clock, &time) != 0) std::abort();
  return absl::DurationFromTimespec(time);
}

}  // namespace iovad::bench
