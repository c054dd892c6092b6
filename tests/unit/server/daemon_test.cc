#include "server/daemon.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/mutex.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "iovad/v1/debug.grpc.pb.h"
#include "tests/unit/server/temporary_directory.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;
using HealthStatus = grpc::health::v1::HealthCheckResponse;

// Stands for any service: GetServerInfo answers at once, Stats when it is let go.
class SlowService final : public v1::DebugService::CallbackService {
 public:
  explicit SlowService(DrainGate& gate) : gate_(gate) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest*,
                                          v1::GetServerInfoResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const DrainGate::Pass pass = gate_.Enter();
    reactor->Finish(pass ? grpc::Status::OK
                         : grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining"));
    return reactor;
  }

  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* context, const v1::StatsRequest*,
                                  v1::StatsResponse* response) override {
    response->set_text("done");
    MutexLock lock(mu_);
    waiting_ = context->DefaultReactor();
    pass_ = gate_.Enter();
    changed_.NotifyAll();
    return waiting_;
  }

  void AwaitStats() {
    MutexLock lock(mu_);
    while (waiting_ == nullptr) changed_.Wait(mu_);
  }
  void FinishStats() {
    MutexLock lock(mu_);
    waiting_->Finish(grpc::Status::OK);
    pass_.Release();
  }

 private:
  DrainGate& gate_;
  Mutex mu_;
  CondVar changed_;
  grpc::ServerUnaryReactor* waiting_ ABSL_GUARDED_BY(mu_) = nullptr;
  DrainGate::Pass pass_ ABSL_GUARDED_BY(mu_);
};

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    config_.socket = directory_ / "s";
    config_.ephemeral = true;
  }

  void Start() {
    auto daemon =
        Daemon::Start(config_, gate_, {{v1::DebugService::service_full_name(), &service_}});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }

  // A connection of its own for each call.
  std::shared_ptr<grpc::Channel> Connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxSendMessageSize(-1);
    return grpc::CreateCustomChannel("unix:" + config_.socket, grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  static grpc::Status Info(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    v1::GetServerInfoResponse response;
    return v1::DebugService::NewStub(channel)->GetServerInfo(&context, {}, &response);
  }

  static HealthStatus::ServingStatus Health(const std::shared_ptr<grpc::Channel>& channel,
                                            const std::string& service) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    HealthStatus response;
    const grpc::Status status =
        grpc::health::v1::Health::NewStub(channel)->Check(&context, request, &response);
    return status.ok() ? response.status() : HealthStatus::UNKNOWN;
  }

  const TemporaryDirectory directory_;
  Config config_;
  DrainGate gate_;
  SlowService service_{gate_};
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(DaemonTest, ServesWithHealthForEachService) {
  Start();
  const auto channel = Connect();
  EXPECT_TRUE(Info(channel).ok());
  EXPECT_EQ(Health(channel, ""), HealthStatus::SERVING);
  EXPECT_EQ(Health(channel, "iovad.v1.DebugService"), HealthStatus::SERVING);
  EXPECT_EQ(Health(channel, "iovad.v1.NoSuchService"), HealthStatus::UNKNOWN);
}

TEST_F(DaemonTest, ServesTcpAsWell) {
  config_.listen = "127.0.0.1:0";
  Start();
  const auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(daemon_->tcp_port()),
                                           grpc::InsecureChannelCredentials());
  EXPECT_TRUE(Info(channel).ok());
}

TEST_F(DaemonTest, TooLargeMessageIsRefusedAndTheServerGoesOn) {
  config_.limits.max_message_bytes = 64 * 1024;
  Start();
  const auto channel = Connect();
  v1::ResolveRequest request;
  request.set_address(std::string(65 * 1024, 'x'));
  v1::ResolveResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      v1::DebugService::NewStub(channel)->Resolve(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_TRUE(Info(channel).ok());
}

TEST_F(DaemonTest, ConnectionBeyondTheLimitIsRefusedUntilOneCloses) {
  config_.limits.max_connections = 1;
  Start();
  auto first = Connect();
  EXPECT_TRUE(Info(first).ok());
  EXPECT_EQ(Info(Connect()).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(Info(first).ok());
  first.reset();
  // The server learns of the end a moment later.
  while (!Info(Connect()).ok()) std::this_thread::yield();
}

TEST_F(DaemonTest, SecondDaemonOnTheSocketIsRefused) {
  Start();
  DrainGate gate;
  const auto second = Daemon::Start(config_, gate, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Info(Connect()).ok());
}

TEST_F(DaemonTest, DrainLetsRunningRequestsFinishAndTurnsNewOnesAway) {
  Start();
  const auto channel = Connect();
  v1::StatsResponse response;
  grpc::Status stats;
  std::thread client([&] {
    grpc::ClientContext context;
    stats = v1::DebugService::NewStub(channel)->Stats(&context, {}, &response);
  });
  service_.AwaitStats();

  bool idle = false;
  std::thread drain([&] { idle = daemon_->Drain(); });
  while (!gate_.draining()) std::this_thread::yield();
  EXPECT_EQ(Health(channel, ""), HealthStatus::NOT_SERVING);
  EXPECT_EQ(Health(channel, "iovad.v1.DebugService"), HealthStatus::NOT_SERVING);
  EXPECT_EQ(Info(channel).error_message(), "draining");
  EXPECT_EQ(Info(Connect()).error_message(), "draining");  // a new connection, too

  service_.FinishStats();
  drain.join();
  client.join();
  EXPECT_TRUE(idle);
  EXPECT_TRUE(stats.ok()) << stats.error_message();
  EXPECT_EQ(response.text(), "done");
  EXPECT_EQ(Info(Connect()).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(DaemonTest, DrainGivesUpAfterItsTimeout) {
  config_.drain_timeout = std::chrono::seconds(0);
  Start();
  const auto channel = Connect();
  grpc::Status stats;
  std::thread client([&] {
    grpc::ClientContext context;
    v1::StatsResponse response;
    stats = v1::DebugService::NewStub(channel)->Stats(&context, {}, &response);
  });
  service_.AwaitStats();
  bool idle = true;
  std::thread drain([&] { idle = daemon_->Drain(); });
  client.join();  // cancelled by the server, which still waits for the handler
  EXPECT_FALSE(stats.ok());
  service_.FinishStats();
  drain.join();
  EXPECT_FALSE(idle);
}

TEST_F(DaemonTest, StartsAgainAfterADrain) {
  Start();
  EXPECT_TRUE(daemon_->Drain());
  EXPECT_TRUE(daemon_->Drain());
  daemon_.reset();
  DrainGate gate;
  SlowService service(gate);
  const auto second =
      Daemon::Start(config_, gate, {{v1::DebugService::service_full_name(), &service}});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(Info(Connect()).ok());
}

}  // namespace
}  // namespace iovad
