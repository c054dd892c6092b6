// The client library against a running iovad.
#include "client/connection.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/daemon.h"

namespace iovad::client {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(60);

class ConnectionTest : public testing::Test {
 protected:
  void SetUp() override {
    daemon_.Start();
    auto opened = Connection::Open(daemon_.socket());
    ASSERT_TRUE(opened.ok()) << opened.status();
    connection_ = *std::move(opened);
    ASSERT_TRUE(connection_->WaitUntilServing(kLong).ok());
  }

  void CreateSpace(const std::string& name) {
    v1::CreateSpaceRequest request;
    request.set_space(name);
    const auto created = connection_->CreateSpace(request);
    ASSERT_TRUE(created.ok()) << created.status();
  }

  static v1::MappingSpec Page(uint64_t number) {
    v1::MappingSpec spec;
    spec.set_gpa(number << 12);
    spec.set_hva((0x7f0000000 + number) << 12);
    spec.set_size(4096);
    spec.set_access(v1::ACCESS_READ_WRITE);
    return spec;
  }

  Daemon daemon_{Daemon::Keeps::kNothing};
  std::unique_ptr<Connection> connection_;
};

TEST_F(ConnectionTest, CallsAndErrorsCarryWhatTheServerSays) {
  CreateSpace("vm1");
  v1::MapRequest map;
  map.set_space("vm1");
  *map.mutable_mapping() = Page(1);
  const auto mapped = connection_->Map(map);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(mapped->revision(), 2u);

  const auto again = connection_->Map(map);
  EXPECT_TRUE(absl::IsAlreadyExists(again.status()));
  EXPECT_EQ(ReasonOf(again.status()), v1::REASON_MAPPING_EXISTS);
  EXPECT_EQ(DetailOf(again.status())->conflicts(0).mapping_id(), mapped->mapping().mapping_id());
}

TEST_F(ConnectionTest, AStreamOfUpdatesAnswersInOrderAndGoesOnAfterAnError) {
  CreateSpace("vm1");
  const auto stream = connection_->StreamUpdates();
  for (const uint64_t page : {1, 1, 2}) {
    v1::StreamUpdatesRequest request;
    request.set_sequence(page);
    request.mutable_update()->set_space("vm1");
    *request.mutable_update()->add_ops()->mutable_map() = Page(page);
    ASSERT_TRUE(stream->Write(request));
  }
  ASSERT_TRUE(stream->WritesDone());
  v1::StreamUpdatesResponse response;
  ASSERT_TRUE(stream->Read(response));
  EXPECT_EQ(response.update().revision(), 2u);
  ASSERT_TRUE(stream->Read(response));
  EXPECT_EQ(ReasonOf(FromRpc(response.error())), v1::REASON_MAPPING_EXISTS);
  ASSERT_TRUE(stream->Read(response));
  EXPECT_EQ(response.sequence(), 2u);
  EXPECT_EQ(response.update().revision(), 3u);
  EXPECT_FALSE(stream->Read(response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ConnectionTest, SpacesCanBeWatchedAndCancelledFromAnotherThread) {
  CreateSpace("vm1");
  const auto stream = connection_->WatchSpaces({});
  v1::WatchSpacesResponse response;
  ASSERT_TRUE(stream->Read(response));
  EXPECT_EQ(response.created().name(), "vm1");
  ASSERT_TRUE(stream->Read(response));
  EXPECT_TRUE(response.snapshot_end());
  std::thread other([&] { stream->Cancel(); });
  EXPECT_FALSE(stream->Read(response));
  other.join();
  EXPECT_TRUE(absl::IsCancelled(stream->Finish()));
}

TEST_F(ConnectionTest, ManyThreadsShareOneConnection) {
  CreateSpace("vm1");
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kPages = 50;
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kPages; ++i) {
        v1::MapRequest map;
        map.set_space("vm1");
        *map.mutable_mapping() = Page(t * kPages + i);
        if (!connection_->Map(map).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  v1::GetSpaceRequest get;
  get.set_space("vm1");
  EXPECT_EQ(connection_->GetSpace(get)->space().mapping_count(), kThreads * kPages);
}

TEST_F(ConnectionTest, FindsAServerThatWasRestarted) {
  daemon_.Stop();
  const auto down = connection_->ListSpaces({});
  EXPECT_TRUE(absl::IsUnavailable(down.status()));
  EXPECT_THAT(std::string(down.status().message()),
              HasSubstr("cannot reach iovad at " + daemon_.socket()));
  EXPECT_FALSE(DetailOf(down.status()).has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(connection_->WaitUntilServing(absl::Milliseconds(100))));
  daemon_.Start();
  EXPECT_TRUE(connection_->WaitUntilServing(kLong).ok());
  EXPECT_TRUE(connection_->ListSpaces({}).ok());
}

TEST_F(ConnectionTest, ACallCanHaveATimeLimit) {
  v1::OpenDeviceRequest open;
  open.set_device("slow");
  v1::SimulatedDevice::Fault& fault = *open.mutable_simulated()->add_faults();
  fault.set_op(v1::SimulatedDevice::Fault::OP_UPDATE);
  fault.mutable_delay()->set_seconds(1);
  ASSERT_TRUE(connection_->OpenDevice(open).ok());
  v1::CreateSpaceRequest create;
  create.set_space("vm1");
  create.add_attachments()->set_device("slow");
  ASSERT_TRUE(connection_->CreateSpace(create).ok());
  v1::MapRequest map;
  map.set_space("vm1");
  *map.mutable_mapping() = Page(1);
  const auto mapped = connection_->Map(map, {.timeout = absl::Milliseconds(50)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(mapped.status()));
}

}  // namespace
}  // namespace iovad::client
