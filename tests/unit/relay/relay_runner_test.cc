#include "client/relay/relay_runner.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <future>
#include <string>
#include <thread>

#include "core/unique_fd.h"
#include "gtest/gtest.h"

namespace iovad::client {
namespace {

// A device that is told nothing here but to be empty.
class IdleEnd final : public RelayEnd, public IotlbPort {
 public:
  const VhostVdpaInfo& info() const override { return info_; }
  IotlbPort& port() override { return *this; }
  absl::Status failure() const override { return absl::OkStatus(); }
  int Clear(Asid /*asid*/) override { return 0; }
  int Begin(Asid /*asid*/, Direction /*direction*/) override { return EIO; }
  int End(Asid /*asid*/, Direction /*direction*/) override { return EIO; }
  int Update(Asid /*asid*/, const IotlbEntry& /*entry*/, Direction /*direction*/) override {
    return EIO;
  }
  int Invalidate(Asid /*asid*/, IovaRange /*iova*/, Direction /*direction*/) override {
    return EIO;
  }

 private:
  VhostVdpaInfo info_;
};

TEST(RelayRunnerTest, AServerThatHangsIsTriedAgain) {
  char folder[] = "/tmp/iovad-relay-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/iovad.sock";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  // Takes connections, and says nothing.
  const UniqueFd server(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(server.get(), 16), 0);

  const auto connection = Connection::Open(path);
  ASSERT_TRUE(connection.ok()) << connection.status();
  IdleEnd end;
  std::promise<RelayEvent::Kind> first_event;
  bool told = false;
  const auto on_event = [&](const RelayEvent& event) {
    if (!told) first_event.set_value(event.kind);
    told = true;
  };
  RelayRunner runner(**connection, end, {.device = "net0", .space = "vm1"}, on_event);
  absl::Status why;
  std::thread thread([&] {
    why = runner.Run();
    on_event({.kind = RelayEvent::Kind::kDetached});
  });
  EXPECT_EQ(first_event.get_future().get(), RelayEvent::Kind::kDisconnected);
  runner.Stop();
  thread.join();
  EXPECT_TRUE(why.ok()) << why;
  unlink(path.c_str());
  rmdir(folder);
}

}  // namespace
}  // namespace iovad::client
