// Measures what iovad's state costs the daemon: how soon a restart serves, how fast
// a space is exported and what that takes of memory.
//
// Usage: state_bench [--smoke] [--json FILE]
//
// The daemon is the program itself (`iovad`, beside this one), with a state directory
// of its own. It is killed with SIGKILL, as a restart after a crash is what counts.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include <nlohmann/json.hpp>

namespace iovad::bench {
namespace {

using client::Connection;

constexpr char kSpace[] = "bench";

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "state_bench: %s\n", what.c_str());
  std::exit(1);
}
void Check(const absl::Status& status, const char* what) {
  if (!status.ok()) Fail(std::string(what) + ": " + std::string(status.message()));
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// A folder that goes with the program.
class Folder {
 public:
  Folder() {
    std::string path = (std::filesystem::temp_directory_path() / "state-bench-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) Fail("cannot make " + path);
    path_ = path;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The program `iovad` on a folder.
class DaemonProcess {
 public:
  explicit DaemonProcess(const std::string& folder)
      : program_(std::filesystem::read_symlink("/proc/self/exe").parent_path() / "iovad"),
        socket_(folder + "/iovad.sock"),
        state_(folder + "/state") {}
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;
  ~DaemonProcess() { Kill(); }

  // Returns when it serves.
  void Start() {
    const std::string arguments[] = {program_.string(), "--socket", socket_, "--state-dir", state_,
                                     "--log-level",     "warn"};
    std::vector<char*> argv;
    for (const std::string& argument : arguments) {
      argv.push_back(const_cast<char*>(argument.c_str()));  // NOLINT: as posix_spawn wants it
    }
    argv.push_back(nullptr);
    if (posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) != 0) {
      Fail("cannot start " + program_.string());
    }
    // gRPC would try again after a second only.
    while (!Accepts()) usleep(1000);
    auto connection = Connection::Open(socket_);
    Check(connection.status(), "connecting");
    connection_ = *std::move(connection);
    Check(connection_->WaitUntilServing(absl::Seconds(60)), "waiting for iovad");
  }
  void Kill() {
    if (pid_ < 0) return;
    connection_.reset();
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

  Connection& connection() { return *connection_; }
  const std::string& state() const { return state_; }

  // A line of /proc/PID/status, in bytes.
  uint64_t StatusBytes(const std::string& key) const {
    std::ifstream in("/proc/" + std::to_string(pid_) + "/status");
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with(key)) return std::stoull(line.substr(key.size() + 1)) * 1024;
    }
    Fail("no " + key + " in /proc");
  }
  // Lets VmHWM begin anew.
  void ForgetPeak() const { std::ofstream("/proc/" + std::to_string(pid_) + "/clear_refs") << "5"; }

 private:
  bool Accepts() const {
    if (waitpid(pid_, nullptr, WNOHANG) != 0) Fail("iovad ended at once");
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool accepts =
        connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    return accepts;
  }

  const std::filesystem::path program_;
  const std::string socket_;
  const std::string state_;
  std::unique_ptr<Connection> connection_;
  pid_t pid_ = -1;
};

// Mappings of 4 KiB to 2 MiB, with room between them, each hundredth an alias.
void Fill(Connection& iovad, uint64_t count) {
  v1::CreateSpaceRequest create;
  create.set_space(kSpace);
  Check(iovad.CreateSpace(create).status(), "CreateSpace");
  constexpr uint64_t kHva = 0x7f0000000000;
  for (uint64_t i = 0; i < count;) {
    v1::UpdateRequest update;
    update.set_space(kSpace);
    for (const uint64_t end = std::min(count, i + 1000); i < end; ++i) {
      v1::MappingSpec& map = *update.add_ops()->mutable_map();
      map.set_gpa(i << 21);
      map.set_hva(i % 100 == 99 ? kHva : kHva + (i << 21));
      map.set_size(uint64_t{4096} << (i % 10));
      map.set_access(v1::ACCESS_READ_WRITE);
    }
    Check(iovad.Update(update).status(), "Update");
  }
}

// Reads every file of the state once: with a program, as a restart is one, too.
void ReadFiles(const std::string& state) {
  std::vector<std::string> arguments = {"cat"};
  for (const auto& entry : std::filesystem::directory_iterator(state)) {
    if (entry.is_regular_file()) arguments.push_back(entry.path().string());
  }
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, "cat", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (error != 0 || waitpid(pid, &status, 0) != pid || status != 0) Fail("cat does not work");
}

// Exports the space and looks at no message but the last. How many mappings it has.
uint64_t Export(const Connection& iovad) {
  grpc::GenericStub stub(iovad.channel());
  v1::ExportSpaceRequest request;
  request.set_space(kSpace);
  grpc::Slice bytes(request.SerializeAsString());
  const grpc::ByteBuffer message(&bytes, 1);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto next = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(&context, "/iovad.v1.MigrationService/ExportSpace", &queue);
  call->StartCall(nullptr);
  if (!next()) Fail("ExportSpace: the stream did not begin");
  call->WriteLast(message, grpc::WriteOptions(), nullptr);
  if (!next()) Fail("ExportSpace: the stream broke");
  grpc::ByteBuffer last;
  for (grpc::ByteBuffer got;; last = got) {
    call->Read(&got, nullptr);
    if (!next()) break;
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  if (!status.ok()) Fail("ExportSpace: " + status.error_message());
  v1::ExportSpaceResponse response;
  if (!grpc::SerializationTraits<v1::ExportSpaceResponse>::Deserialize(&last, &response).ok() ||
      response.records().empty() || !response.records().rbegin()->has_trailer()) {
    Fail("ExportSpace: no trailer");
  }
  return response.records().rbegin()->trailer().mapping_count();
}

int Main(int argc, char** argv) {
  uint64_t count = 1'000'000;
  int rounds = 9;
  std::string json_file;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--smoke") == 0) {
      count = 10'000;
      rounds = 1;
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json_file = argv[++i];
    } else {
      std::fprintf(stderr, "usage: state_bench [--smoke] [--json FILE]\n");
      return 2;
    }
  }

  const Folder folder;
  DaemonProcess daemon(folder.path());
  daemon.Start();
  Fill(daemon.connection(), count);

  std::vector<double> starts;
  std::vector<double> reads;
  for (int round = 0; round < rounds; ++round) {
    daemon.Kill();
    reads.push_back(Seconds([&] { ReadFiles(daemon.state()); }));
    starts.push_back(Seconds([&] { daemon.Start(); }));
    v1::GetSpaceRequest get;
    get.set_space(kSpace);
    const auto space = daemon.connection().GetSpace(get);
    Check(space.status(), "GetSpace");
    if (space->space().mapping_count() != count) Fail("mappings are missing after a restart");
  }

  std::vector<double> rates;
  const uint64_t before = daemon.StatusBytes("VmRSS:");
  daemon.ForgetPeak();
  for (int round = 0; round < rounds; ++round) {
    uint64_t exported = 0;
    const double seconds = Seconds([&] { exported = Export(daemon.connection()); });
    if (exported != count) Fail("mappings are missing in the export");
    rates.push_back(static_cast<double>(count) / seconds);
  }
  const uint64_t peak = daemon.StatusBytes("VmHWM:");

  const double mebibyte = 1024.0 * 1024.0;
  const nlohmann::json result = {
      {"mappings", count},
      {"restart_s", Median(starts)},
      {"read_files_s", Median(reads)},
      {"restart_to_read", Median(starts) / Median(reads)},
      {"export_mappings_per_s", Median(rates)},
      {"export_growth_mib", static_cast<double>(std::max(peak, before) - before) / mebibyte},
      {"resident_mib", static_cast<double>(before) / mebibyte}};
  for (const auto& [key, value] : result.items()) {
    std::printf("%-34s %14.3f\n", key.c_str(), value.get<double>());
  }
  if (!json_file.empty()) std::ofstream(json_file) << result.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace iovad::bench

int main(int argc, char** argv) { return iovad::bench::Main(argc, argv); }
