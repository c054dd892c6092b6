#include "tests/kernel/api/relay_owner.h"

#include <chrono>
#include <utility>

#include "core/vhost_uapi.h"

namespace iovad {

RelayOwner::RelayOwner(const std::string& socket, const std::string& path, const std::string& name,
                       const std::string& space) {
  auto iovad = client::Connection::Open(socket);
  EXPECT_TRUE(iovad.ok()) << iovad.status();
  auto device = VhostVdpa::Open(path, name);
  EXPECT_TRUE(device.ok()) << device.status();
  if (!iovad.ok() || !device.ok()) return;
  iovad_ = *std::move(iovad);
  end_.emplace(*std::move(device), VhostVdpaPort::MemoryCheck::kOnRegistration);
  runner_.emplace(*iovad_, *end_, client::RelayOptions{.device = name, .space = space},
                  [this](const client::RelayEvent& event) {
                    if (event.kind != client::RelayEvent::Kind::kAttached) return;
                    const MutexLock lock(mu_);
                    attached_ = true;
                    changed_.NotifyAll();
                  });
  thread_ = std::thread([this] {
    result_ = runner_->Run();
    const MutexLock lock(mu_);
    ended_ = true;
    changed_.NotifyAll();
  });
}

RelayOwner::~RelayOwner() { End().IgnoreError(); }

bool RelayOwner::WaitAttached() {
  if (!runner_.has_value()) return false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  const MutexLock lock(mu_);
  while (!attached_ && !ended_) {
    if (!changed_.WaitUntil(mu_, deadline)) break;
  }
  return attached_;
}

absl::Status RelayOwner::End() {
  if (thread_.joinable()) {
    runner_->Stop();
    thread_.join();
  }
  return result_;
}

bool RelayOwner::IsFree(uint64_t iova) {
  if (device().Send(VHOST_IOTLB_UPDATE, Asid(0), Iova(iova), kPage, Hva(page_.hva()),
                    VHOST_ACCESS_RW) != 0) {
    return false;
  }
  EXPECT_EQ(device().Send(VHOST_IOTLB_INVALIDATE, Asid(0), Iova(iova), kPage), 0);
  return true;
}

void RelayOwner::ExpectMapped(const std::vector<v1::Mapping>& mappings) {
  for (size_t i = 0; i < mappings.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "IOVA " << std::hex << mappings[i].iova());
    const uint64_t begin = mappings[i].iova();
    const uint64_t end = begin + mappings[i].size();  // 0: 2^64
    EXPECT_FALSE(IsFree(begin)) << "its first page is not mapped";
    EXPECT_FALSE(IsFree(end - kPage)) << "its last page is not mapped";
    const uint64_t before = i == 0 ? 0 : mappings[i - 1].iova() + mappings[i - 1].size();
    const bool follows = i > 0 && before == begin;
    // Never IOVA 0: a refusal there empties the device.
    if (!follows && begin > kPage) {
      EXPECT_TRUE(IsFree(begin - kPage)) << "the page before it is mapped";
    }
    const bool is_followed = i + 1 < mappings.size() && mappings[i + 1].iova() == end;
    if (!is_followed && end != 0) {
      EXPECT_TRUE(IsFree(end)) << "the page after it is mapped";
    }
  }
}

}  // namespace iovad
