#include "client/qemu/qmp_client.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>

#include "client/qemu/stop_event.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::qemu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kGreeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";
constexpr absl::Duration kLong = absl::Seconds(60);
constexpr absl::Duration kShort = absl::Milliseconds(20);

TEST(QmpMessageTest, Requests) {
  EXPECT_EQ(QmpRequest(7, {.name = "query-memdev"}), "{\"execute\":\"query-memdev\",\"id\":7}\n");
  EXPECT_EQ(QmpRequest(1, HumanCommand("x \"y\"")),
            "{\"arguments\":{\"command-line\":\"x \\\"y\\\"\"},"
            "\"execute\":\"human-monitor-command\",\"id\":1}\n");
}

TEST(QmpMessageTest, Answers) {
  using Type = QmpMessage::Kind;
  struct Case {
    const char* line;
    Type kind;
    uint64_t id;
    const char* text;
  };
  const Case cases[] = {
      {kGreeting, Type::kGreeting, 0, ""},
      {"{\"return\": \"a\\r\\nb\", \"id\": 3}", Type::kReturn, 3, "a\r\nb"},
      {"{\"return\": {\"x\": [1]}, \"id\": 3}\r", Type::kReturn, 3, "{\"x\":[1]}"},
      {"{\"id\": \"mine\", \"return\": {}}", Type::kReturn, 0, "{}"},
      {"{\"id\": 4, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}", Type::kError, 4,
       "no"},
      {"{\"error\": 7}", Type::kError, 0, ""},
      {"{\"timestamp\": {}, \"event\": \"RESUME\"}", Type::kEvent, 0, "RESUME"},
  };
  for (const Case& c : cases) {
    const absl::StatusOr<QmpMessage> message = ParseQmpMessage(c.line);
    ASSERT_TRUE(message.ok()) << c.line << message.status();
    EXPECT_EQ(message->kind, c.kind) << c.line;
    EXPECT_EQ(message->id, c.id) << c.line;
    EXPECT_EQ(message->text, c.text) << c.line;
  }
  for (const char* line : {"", "[]", "{}", "{\"return\": ", "\xff", "HMP> "}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseQmpMessage(line).status())) << line;
  }
}

// The other end is the test's to speak for: what QEMU does seldom.
class QmpClientTest : public ::testing::Test {
 protected:
  QmpClientTest() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    qemu_ = UniqueFd(ends[0]);
    client_.emplace(UniqueFd(ends[1]), stop_);
  }

  void Say(const std::string& bytes) {
    ASSERT_EQ(send(qemu_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  void Greet() {
    Say(std::string(kGreeting) + "{\"return\": {}, \"id\": 1}\r\n");
    ASSERT_TRUE(client_->Negotiate(kLong).ok());
  }

  StopEvent stop_;
  UniqueFd qemu_;
  std::optional<QmpClient> client_;
};

std::vector<std::string> Texts(
    const absl::StatusOr<std::vector<absl::StatusOr<std::string>>>& answers) {
  std::vector<std::string> texts;
  if (!answers.ok()) return {"failed: " + std::string(answers.status().message())};
  for (const absl::StatusOr<std::string>& answer : *answers) {
    texts.push_back(answer.ok() ? *answer : "error: " + std::string(answer.status().message()));
  }
  return texts;
}

TEST_F(QmpClientTest, AnswersAmongEvents) {
  Greet();
  Say("{\"event\": \"STOP\"}\r\n{\"return\": \"one\", \"id\": 2}\r\n{\"event\": \"RESET\"}\r\n"
      "{\"error\": {\"desc\": \"no\"}, \"id\": 3}\r\n{\"return\": \"three\", \"id\": 4}\r\n");
  EXPECT_THAT(Texts(client_->Run({{.name = "a"}, {.name = "b"}, {.name = "c"}}, kLong)),
              ElementsAre("one", "error: b: no", "three"));
  // RESET was seen on the way, STOP does not count.
  absl::StatusOr<bool> event = client_->WaitForEvent(kLong);
  EXPECT_TRUE(event.ok() && *event) << event.status();
  event = client_->WaitForEvent(kShort);
  EXPECT_TRUE(event.ok() && !*event) << event.status();
}

TEST_F(QmpClientTest, AnAnswerThatComesTooLateIsDropped) {
  Greet();
  EXPECT_TRUE(absl::IsDeadlineExceeded(client_->Run({{.name = "a"}}, kShort).status()));
  Say("{\"return\": \"late\", \"id\": 2}\r\n{\"return\": \"new\", \"id\": 3}\r\n");
  EXPECT_THAT(Texts(client_->Run({{.name = "b"}}, kLong)), ElementsAre("new"));
}

TEST_F(QmpClientTest, NoGreetingYet) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(client_->Negotiate(kShort)));
  Greet();
}

TEST_F(QmpClientTest, InPieces) {
  Greet();
  std::thread qemu([this] {
    for (const char c : std::string("{\"return\": \"\\u00e4\", \"id\": 2}\r\n")) {
      Say(std::string(1, c));
    }
  });
  EXPECT_THAT(Texts(client_->Run({{.name = "a"}}, kLong)), ElementsAre("ä"));
  qemu.join();
}

// More than the socket holds: both ends have to go on.
TEST_F(QmpClientTest, ManyRequests) {
  Greet();
  constexpr size_t kMany = 20000;
  std::thread qemu([this] {
    size_t lines = 0;
    uint64_t id = 1;
    char bytes[65536];
    while (lines < kMany) {
      const ssize_t size = recv(qemu_.get(), bytes, sizeof bytes, 0);
      ASSERT_GT(size, 0);
      lines += static_cast<size_t>(std::count(bytes, bytes + size, '\n'));
    }
    std::string answers;
    for (size_t i = 0; i < kMany; ++i) {
      answers += "{\"return\": \"\", \"id\": " + std::to_string(++id) + "}\n";
    }
    Say(answers);
  });
  const std::vector<QmpCommand> commands(kMany, HumanCommand("gpa2hva 0x100000"));
  EXPECT_EQ(Texts(client_->Run(commands, kLong)).size(), kMany);
  qemu.join();
}

TEST_F(QmpClientTest, TheEndWakes) {
  std::thread other([this] { stop_.Set(); });
  EXPECT_TRUE(absl::IsCancelled(client_->Negotiate(kLong)));
  EXPECT_TRUE(absl::IsCancelled(client_->WaitForEvent(kLong).status()));
  other.join();
}

TEST_F(QmpClientTest, QemuGoes) {
  Greet();
  qemu_.Reset();
  EXPECT_TRUE(absl::IsUnavailable(client_->Run({{.name = "a"}}, kLong).status()));
  EXPECT_TRUE(absl::IsUnavailable(client_->WaitForEvent(kLong).status()));
}

TEST_F(QmpClientTest, NotAMonitor) {
  Say("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Negotiate(kLong)));
}

// Listens at a path for as long as it lives.
class Listener {
 public:
  explicit Listener(const std::string& path)
      : path_(path), fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(fd_.get(), 1), 0);
  }
  ~Listener() { unlink(path_.c_str()); }

 private:
  const std::string path_;
  UniqueFd fd_;
};

TEST(QmpConnectTest, WhoListens) {
  StopEvent stop;
  const std::string path = "/tmp/iovad-qmp-" + std::to_string(getpid());
  EXPECT_TRUE(absl::IsUnavailable(QmpClient::Connect(path, stop).status()));
  {
    const Listener own(path);
    EXPECT_TRUE(QmpClient::Connect(path, stop).ok());
  }
  // A child that listens until its input ends.
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd mine(ends[0]);
  UniqueFd childs(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    mine.Reset();
    const Listener other(path);
    char byte = '!';
    (void)!write(childs.get(), &byte, 1);
    (void)!read(childs.get(), &byte, 1);
    unlink(path.c_str());
    _exit(0);
  }
  childs.Reset();
  char byte = 0;
  ASSERT_EQ(read(mine.get(), &byte, 1), 1);
  const absl::Status status = QmpClient::Connect(path, stop).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(child)));
}

}  // namespace
}  // namespace iovad::qemu
