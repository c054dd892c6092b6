// vduse_device: a VDUSE device to look at, on a Unix socket.
//
//   vduse_device --name NAME --socket SOCKET [--type blk|net] [--queues N] [--queue-size N]
//   vduse_device --ask SOCKET COMMAND...
//
// The first makes /dev/vduse/NAME and serves it until SIGTERM; `vdpa dev add name
// NAME mgmtdev vduse` makes a vDPA device of it. The second sends a command
// (vduse_commands.h) and prints the answer.
#include <getopt.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/unique_fd.h"
#include "tests/kernel/guest/vduse_client.h"
#include "tests/kernel/guest/vduse_commands.h"
#include "tests/kernel/guest/vduse_device.h"

namespace {

using iovad::UniqueFd;
using iovad::VduseDevice;

[[noreturn]] void Usage() {
  std::fputs(
      "usage: vduse_device --name NAME --socket SOCKET [--type blk|net] [--queues N] "
      "[--queue-size N]\n"
      "       vduse_device --ask SOCKET COMMAND...\n",
      stderr);
  std::exit(2);
}

[[noreturn]] void Die(const std::string& what) {
  std::perror(("vduse_device: " + what).c_str());
  std::exit(1);
}

UniqueFd Listen(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  unlink(path.c_str());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd.get(), 16) != 0) {
    Die(path);
  }
  return fd;
}

// A signalfd that is readable once the program is asked to end.
UniqueFd EndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC));
}

// Each IOTLB entry holds a file.
void AllowManyFiles() {
  constexpr rlim_t kFiles = 1 << 20;
  const rlimit limit = {kFiles, kFiles};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) std::perror("vduse_device: RLIMIT_NOFILE");
}

void AnswerConnection(int listener, VduseDevice& device) {
  const UniqueFd connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  std::string command;
  char buffer[256];
  ssize_t got = 0;
  while (command.size() < 4096 && (got = read(connection.get(), buffer, sizeof buffer)) > 0) {
    command.append(buffer, static_cast<size_t>(got));
  }
  const std::string answer = AnswerVduseCommand(device, command);
  for (size_t sent = 0; sent < answer.size();) {
    got = write(connection.get(), answer.data() + sent, answer.size() - sent);
    if (got <= 0) return;
    sent += static_cast<size_t>(got);
  }
}

int Serve(const iovad::VduseOptions& options, const std::string& socket) {
  AllowManyFiles();
  const UniqueFd end = EndSignals();
  VduseDevice device(options);
  // The socket appears last: who sees it may add the device.
  const UniqueFd listener = Listen(socket);
  constexpr size_t kEnd = 0, kListener = 1, kDevice = 2, kQueues = 3;
  std::vector<pollfd> polled(kQueues + device.queues());
  polled[kEnd] = {end.get(), POLLIN, 0};
  polled[kListener] = {listener.get(), POLLIN, 0};
  for (size_t i = 0; i < device.queues(); ++i) {
    polled[kQueues + i] = {device.queue(i).kick.get(), POLLIN, 0};
  }
  while (true) {
    const bool hangs = device.mode() == VduseDevice::Mode::kHang;
    polled[kDevice] = {hangs ? -1 : device.fd(), POLLIN, 0};
    if (poll(polled.data(), polled.size(), -1) < 0) Die("poll");
    if (polled[kEnd].revents != 0) break;
    if (polled[kDevice].revents != 0 && !device.HandleRequest()) Die("control message");
    for (size_t i = 0; i < device.queues(); ++i) {
      if (polled[kQueues + i].revents != 0) device.CountKick(i);
    }
    if (polled[kListener].revents != 0) AnswerConnection(listener.get(), device);
  }
  unlink(socket.c_str());
  return 0;
}

int Ask(const std::string& socket, char** begin, char** end) {
  std::string command;
  for (char** word = begin; word != end; ++word) command += std::string(*word) + " ";
  const auto answer = iovad::AskVduseDevice(socket, command);
  if (answer) std::fputs(answer->c_str(), stdout);
  return answer ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  static const option kOptions[] = {{"name", required_argument, nullptr, 'n'},
                                    {"socket", required_argument, nullptr, 's'},
                                    {"type", required_argument, nullptr, 't'},
                                    {"queues", required_argument, nullptr, 'q'},
                                    {"queue-size", required_argument, nullptr, 'z'},
                                    {"ask", required_argument, nullptr, 'a'},
                                    {nullptr, 0, nullptr, 0}};
  iovad::VduseOptions options;
  std::string socket;
  std::string ask;
  for (int option = 0; (option = getopt_long(argc, argv, "+", kOptions, nullptr)) != -1;) {
    const std::string value = optarg == nullptr ? "" : optarg;
    switch (option) {
      case 'n':
        options.name = value;
        break;
      case 's':
        socket = value;
        break;
      case 't':
        if (value != "blk" && value != "net") Usage();
        options.device_id = value == "net" ? VIRTIO_ID_NET : VIRTIO_ID_BLOCK;
        break;
      case 'q':
        options.queues = static_cast<uint32_t>(std::atoi(value.c_str()));
        break;
      case 'z':
        options.queue_size = static_cast<uint16_t>(std::atoi(value.c_str()));
        break;
      case 'a':
        ask = value;
        break;
      default:
        Usage();
    }
  }
  if (!ask.empty()) return Ask(ask, argv + optind, argv + argc);
  if (options.name.empty() || socket.empty() || optind != argc) Usage();
  return Serve(options, socket);
}
