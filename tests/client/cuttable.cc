#include "tests/client/cuttable.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace iovad {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

UniqueFd Socket() { return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

}  // namespace

Cuttable::Cuttable(std::string server)
    : server_(std::move(server)),
      socket_(server_ + ".way"),
      listening_(Socket()),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  const sockaddr_un address = AddressOf(socket_);
  EXPECT_EQ(bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  EXPECT_EQ(listen(listening_.get(), 16), 0);
  thread_ = std::thread([this] { Carry(); });
}

Cuttable::~Cuttable() {
  {
    const MutexLock lock(mu_);
    ended_ = true;
  }
  Wake(State::kCut);
  thread_.join();
  unlink(socket_.c_str());
}

// Returns when the thread has done what the state asks for.
void Cuttable::Wake(State state) {
  const MutexLock lock(mu_);
  state_ = state;
  handled_ = false;
  const uint64_t one = 1;
  EXPECT_EQ(write(wake_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  while (!handled_) done_.Wait(mu_);
}

void Cuttable::Cut() { Wake(State::kCut); }
void Cuttable::Mend() { Wake(State::kOpen); }
void Cuttable::DropAnswers() { Wake(State::kDeaf); }
void Cuttable::Hold() { Wake(State::kHeld); }

void Cuttable::Accept() {
  Pair pair = {.client = UniqueFd(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC)),
               .server = Socket()};
  const sockaddr_un address = AddressOf(server_);
  // A server that is away is a connection that is closed at once.
  if (connect(pair.server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
      0) {
    pairs_.push_back(std::move(pair));
  }
}

bool Cuttable::Move(int from, int to, bool drop) {
  char bytes[65536];
  const ssize_t got = recv(from, bytes, sizeof(bytes), 0);
  if (got <= 0) return false;
  if (drop) return true;
  for (ssize_t sent = 0; sent < got;) {
    const ssize_t now = send(to, bytes + sent, static_cast<size_t>(got - sent), MSG_NOSIGNAL);
    if (now <= 0) return false;
    sent += now;
  }
  return true;
}

void Cuttable::Carry() {
  bool held = false;
  while (true) {
    std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}, {listening_.get(), POLLIN, 0}};
    for (const Pair& pair : pairs_) {
      fds.push_back({held ? -1 : pair.client.get(), POLLIN, 0});
      fds.push_back({held ? -1 : pair.server.get(), POLLIN, 0});
    }
    poll(fds.data(), fds.size(), -1);
    const State state = [this] {
      const MutexLock lock(mu_);
      return state_;
    }();
    held = state == State::kHeld;
    if (state == State::kCut) {
      pairs_.clear();
    } else if (!held) {
      size_t at = 2;
      for (auto pair = pairs_.begin(); pair != pairs_.end(); at += 2) {
        bool alive = true;
        if (fds[at].revents != 0) alive = Move(pair->client.get(), pair->server.get(), false);
        if (alive && fds[at + 1].revents != 0) {
          alive = Move(pair->server.get(), pair->client.get(), state == State::kDeaf);
        }
        pair = alive ? std::next(pair) : pairs_.erase(pair);
      }
    }
    if (fds[1].revents != 0) {
      Accept();
      if (state == State::kCut) pairs_.clear();
    }
    if (fds[0].revents == 0) continue;
    uint64_t count = 0;
    EXPECT_EQ(read(wake_.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
    const MutexLock lock(mu_);
    handled_ = true;
    done_.NotifyAll();
    if (ended_) return;
  }
}

}  // namespace iovad
