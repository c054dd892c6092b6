// Recorded traces of running VMMs (tests/data), replayed through iovad with a device
// attached: after every batch the device has what the space has.
//
// IOVAD_TEST_TRACES is the folder they are in, IOVAD_TEST_OWNER who owns the device
// ("iovad" or "relay": this process), IOVAD_TEST_IOVAD_PID iovad's process.
// IOVAD_TEST_TRACE_EVENTS: no more than so many of each trace. On a device that pins
// memory, only guests of at most 2 GiB are replayed: all of it is pinned, and exists.
#include <cstdlib>
#include <string>
#include <vector>

#include "client/replay/replayer.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/relay_owner.h"
#include "tests/kernel/api/traced_guest.h"

namespace iovad {
namespace {

using replay::Event;

// On pinned devices.
constexpr uint64_t kMostPinned = 2100ULL << 20;
// Of a vIOMMU's messages, of which each is a batch, not every one is looked at.
constexpr size_t kMany = 500;

size_t MostEvents() {
  const char* const most = std::getenv("IOVAD_TEST_TRACE_EVENTS");
  return most == nullptr ? SIZE_MAX : std::stoul(most);
}

class TracesTest : public ApiTest, public testing::WithParamInterface<std::string> {
 protected:
  // The space exists, and nothing is mapped yet.
  void Begin() {
    guest_.Register(*iovad_, *fds_, kSpace);
    if (!relayed_) return;
    relay_.emplace(Environment("IOVAD_SOCKET"), Environment("IOVAD_TEST_DEVICE"), kRelay, kSpace);
    ASSERT_TRUE(relay_->WaitAttached());
  }

  // What the owner's process has pinned.
  uint64_t PinnedByOwner() const {
    return PinnedBytes(relayed_ ? "self" : Environment("IOVAD_TEST_IOVAD_PID"));
  }

  // From outside, whatever the device lets be seen. `thorough`: what takes longer, too.
  void ExpectDevice(bool thorough) {
    if (!thorough && !vduse_.has_value() && !pinned_) return;
    const std::vector<v1::Mapping> mappings = ListMappings(kSpace);
    if (vduse_.has_value()) {
      const std::vector<VduseEntry> expected = guest_.Expected(mappings);
      EXPECT_EQ(vduse_->Dump(), expected);
      if (thorough) {
        EXPECT_EQ(vduse_->DumpNow(), expected);
      }
    }
    if (pinned_) {
      uint64_t bytes = 0;
      for (const v1::Mapping& m : mappings) bytes += m.size();
      EXPECT_EQ(PinnedByOwner(), bytes);
    }
    if (thorough && relay_.has_value()) relay_->ExpectMapped(mappings);
    if (!thorough) return;
    const v1::Device device = GetDevice(name_);
    EXPECT_EQ(device.push_errors(), 0U);
    ASSERT_EQ(device.attachments_size(), 1);
    EXPECT_EQ(device.attachments(0).entries(), mappings.size());
    EXPECT_EQ(device.attachments(0).state(), v1::ATTACHMENT_STATE_LIVE);
  }

  static constexpr char kSpace[] = "traced";
  static constexpr char kRelay[] = "traced-relay";

  TracedGuest guest_{GetParam(), MostEvents()};
  const bool relayed_ = Environment("IOVAD_TEST_OWNER") == "relay";
  const bool pinned_ = Environment("IOVAD_TEST_PINNED") == "1";
  std::string name_;
  std::optional<RelayOwner> relay_;
};

TEST_P(TracesTest, TheDeviceFollows) {
  name_ = relayed_ ? kRelay : OpenDevice();
  if (pinned_ && guest_.memory_size() > kMostPinned) {
    GTEST_SKIP() << GetParam() << ": " << (guest_.memory_size() >> 20)
                 << " MiB cannot be pinned here";
  }
  const std::vector<Event>& events = guest_.trace().events;
  const bool many = events.size() > kMany;
  // What iovad itself says is the same on every device: looked at on one.
  const bool verify = vduse_.has_value() && !relayed_;
  replay::ReplayOptions options{.space = kSpace, .verify = verify, .keep = true};
  if (!relayed_) options.attachments.emplace_back().set_device(name_);
  uint64_t checks = 0;
  bool open = false;
  replay::Replayer replayer(iovad_.get(), &guest_.trace(), options);
  const absl::Status status = replayer.Run([&](size_t done) {
    if (done == 1) return Begin();
    const Event& event = events[done - 1];
    if (event.kind == Event::Kind::kBatchBegin) open = true;
    if (event.kind == Event::Kind::kBatchCommit) open = false;
    if (event.kind == Event::Kind::kOther || (guest_.sections() && open)) return;
    if (event.kind != Event::Kind::kBatchCommit && many && done % 16 != 0) return;
    SCOPED_TRACE(testing::Message() << "after seq " << event.seq);
    ExpectDevice(++checks % 16 == 0);
    if (HasFailure()) replayer.Stop();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(replayer.report().verified, verify);
  EXPECT_GT(checks, 0U);
  ExpectDevice(/*thorough=*/true);
  // QEMU 7.2 takes a section for its alias, as tests/data/README.md tells.
  const size_t wrong = GetParam() == "b3_q35_128g_svq_qemu72.vdpa.jsonl" ? 4 : 0;
  EXPECT_EQ(replayer.report().refused.size(), wrong);
  for (const replay::Refusal& refusal : replayer.report().refused) {
    EXPECT_THAT(refusal.reason, testing::AnyOf("IOVA_OVERLAP", "WOULD_SPLIT", "MAPPING_NOT_FOUND",
                                               "GPA_OVERLAP", "MAPPING_EXISTS"))
        << refusal.message;
  }
  std::printf("%s: %zu operations, %zu live at the end, %zu checks of the device\n",
              GetParam().c_str(), static_cast<size_t>(replayer.report().operations()),
              static_cast<size_t>(replayer.report().live), static_cast<size_t>(checks));

  v1::DeleteSpaceRequest request;
  request.set_space(kSpace);
  request.set_force(true);
  Done(iovad_->DeleteSpace(request));
  if (relay_.has_value()) {
    EXPECT_TRUE(relay_->End().ok());
  }
  if (vduse_.has_value()) {
    EXPECT_TRUE(vduse_->DumpNow().empty());
  }
  if (pinned_) {
    EXPECT_EQ(PinnedByOwner(), 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(Recorded, TracesTest, testing::ValuesIn(TraceNames()),
                         [](const testing::TestParamInfo<std::string>& trace) {
                           std::string name = trace.param;
                           for (char& c : name) {
                             if (c == '.') c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace iovad
