// Processes that fork, before and after they have a Client.
//
// The test's own process never has one: gRPC cannot be had again after a fork.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>

#include "client/client.h"
#include "client/mirror/mirror.h"
#include "gtest/gtest.h"
#include "tests/client/daemon.h"

namespace iovad {
namespace {

// Runs `f` in a child; what it returned, or 128 and more when a signal ended it.
int InChild(const std::function<int()>& f) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(100);
    _exit(f());
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// 0 when the server answers.
int Ask(const Client& client) { return client.ListSpaces().ok() ? 0 : 1; }

class ForkTest : public testing::Test {
 protected:
  void SetUp() override { daemon_.Start(); }

  Client Connect() const { return *Client::Connect(daemon_.socket()); }

  Daemon daemon_{Daemon::Keeps::kNothing};
};

TEST_F(ForkTest, ChildrenThatWereForkedBeforeMakeTheirOwn) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(InChild([&] { return Ask(Connect()); }), 0);
  }
}

TEST_F(ForkTest, InAChildOfAClientsProcessCallsAreRefused) {
  EXPECT_EQ(InChild([&] {
              const Client client = Connect();
              if (Ask(client) != 0) return 1;
              const absl::StatusOr<SpaceHandle> space = client.CreateSpace({.name = "vm1"});
              if (!space.ok()) return 2;
              const int in_child = InChild([&] {
                if (!absl::IsFailedPrecondition(client.ListSpaces().status())) return 3;
                if (!absl::IsFailedPrecondition(space->Get().status())) return 4;
                if (!absl::IsFailedPrecondition(client.AttestProcess().status())) return 5;
                if (!absl::IsFailedPrecondition(client.WaitUntilServing())) return 6;
                SpaceChange change;
                const auto watch = space->Watch();
                if (watch->Read(change) || !absl::IsFailedPrecondition(watch->Finish())) return 7;
                const auto updates = space->StreamUpdates();
                if (updates->Send(1, {}) || updates->Receive().has_value()) return 8;
                if (!absl::IsFailedPrecondition(updates->Finish())) return 9;
                return 0;
              });
              // The parent's works on.
              return in_child != 0 ? in_child : Ask(client);
            }),
            0);
}

TEST_F(ForkTest, WhatIsDestroyedInAChildIsTheParentsStill) {
  EXPECT_EQ(InChild([&] {
              std::optional<Client> client = Connect();
              if (Ask(*client) != 0) return 1;
              const int in_child = InChild([&] {
                client.reset();
                return 0;
              });
              return in_child != 0 ? in_child : Ask(*client);
            }),
            0);
}

TEST_F(ForkTest, AMirrorAnswersInAChildAsItDidAtTheFork) {
  EXPECT_EQ(InChild([&] {
              const Client client = Connect();
              const absl::StatusOr<SpaceHandle> space = client.CreateSpace({.name = "vm1"});
              if (!space.ok() || !space->Map({.gpa = Gpa(0), .size = 4096}).ok()) return 1;
              absl::StatusOr<std::unique_ptr<Mirror>> mirror = space->OpenMirror();
              if (!mirror.ok() || !(*mirror)->WaitUntilLive(absl::Minutes(1)).ok()) return 2;
              const int in_child = InChild([&] {
                Segment segment;
                const Translated found =
                    (*mirror)->Translate({.address = Gpa(0)}, absl::MakeSpan(&segment, 1));
                if (found.fault.has_value() || (*mirror)->revision() != Revision(2)) return 3;
                if ((*mirror)->state() != MirrorState::kDisconnected) return 4;
                const MirrorStatus status = (*mirror)->status();
                if (status.revision != Revision(2) || status.space_uid != space->uid()) return 5;
                if (!absl::IsFailedPrecondition(status.why)) return 6;
                if (!absl::IsFailedPrecondition((*mirror)->WaitFor(Revision(9), absl::Hours(1)))) {
                  return 7;
                }
                if (!absl::IsFailedPrecondition(space->OpenMirror().status())) return 8;
                mirror->reset();
                return 0;
              });
              if (in_child != 0) return in_child;
              if (!space->Map({.gpa = Gpa(4096), .hva = Hva(4096), .size = 4096}).ok()) return 9;
              return (*mirror)->state() == MirrorState::kLive ? 0 : 10;
            }),
            0);
}

TEST_F(ForkTest, AChildMayExec) {
  EXPECT_EQ(InChild([&] {
              const Client client = Connect();
              if (Ask(client) != 0) return 1;
              // No descriptor but the three, and what the sanitizers have.
              const int in_child = InChild([] {
                execl("/bin/sh", "sh", "-c",
                      "! ls -l /proc/self/fd | grep -q socket:", static_cast<char*>(nullptr));
                return 1;
              });
              return in_child != 0 ? in_child : Ask(client);
            }),
            0);
}

}  // namespace
}  // namespace iovad
