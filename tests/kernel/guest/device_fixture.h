// What the guest's tests of core/vhost_vdpa*.h share: a device, memory, a port.
//
// IOVAD_TEST_DEVICE is the device's path. If IOVAD_TEST_VDUSE_SOCKET is set, it is
// one of vduse_device's, and what it was told is compared.
#ifndef IOVAD_TESTS_KERNEL_GUEST_DEVICE_FIXTURE_H_
#define IOVAD_TESTS_KERNEL_GUEST_DEVICE_FIXTURE_H_

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/iotlb_port.h"
#include "core/unique_fd.h"
#include "core/vhost_vdpa.h"
#include "core/vhost_vdpa_port.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/guest/vduse_client.h"

namespace iovad {

inline constexpr uint64_t kPage = 4096;

// The device's path.
inline std::string TestDevice() {
  const char* path = std::getenv("IOVAD_TEST_DEVICE");
  return path == nullptr ? "" : path;
}

// A mapping of this process.
class TestMemory {
 public:
  static TestMemory Shared(uint64_t size) {
    UniqueFd fd(memfd_create("guest memory", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
    return TestMemory(size, MAP_SHARED, std::move(fd));
  }
  static TestMemory Private(uint64_t size) {
    return TestMemory(size, MAP_PRIVATE | MAP_ANONYMOUS, UniqueFd());
  }
  TestMemory(TestMemory&& other) noexcept
      : fd_(std::move(other.fd_)), base_(std::exchange(other.base_, nullptr)), size_(other.size_) {}
  ~TestMemory() {
    if (base_ != nullptr) munmap(base_, size_);
  }

  Hva at(uint64_t offset) const { return Hva(reinterpret_cast<uintptr_t>(base_) + offset); }
  void* base() const { return base_; }

  // What a VDUSE device has to show for a part of it.
  VduseEntry Entry(uint64_t iova, uint64_t size, uint64_t offset, const char* perm = "rw") const {
    struct stat info = {};
    fstat(fd_.get(), &info);
    return {iova, iova + size - 1, perm, offset, info.st_dev, info.st_ino};
  }

 private:
  TestMemory(uint64_t size, int flags, UniqueFd fd) : fd_(std::move(fd)), size_(size) {
    base_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd_.get(), 0);
    EXPECT_NE(base_, MAP_FAILED);
  }

  UniqueFd fd_;
  void* base_ = nullptr;
  uint64_t size_;
};

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_FALSE(TestDevice().empty()) << "IOVAD_TEST_DEVICE is not set";
    absl::StatusOr<VhostVdpa> device = VhostVdpa::Open(TestDevice(), "net0");
    ASSERT_TRUE(device.ok()) << device.status();
    device_.emplace(*std::move(device));
    port_.emplace(*device_, addresses_, VhostVdpaPort::MemoryCheck::kEachBatch);
    if (const char* socket = std::getenv("IOVAD_TEST_VDUSE_SOCKET")) vduse_.emplace(socket);
  }

  bool pinned() const { return device_->info().memory_model() == MemoryModel::kPinned; }

  static IotlbEntry At(uint64_t iova, uint64_t size, Hva uaddr,
                       Access access = Access::kReadWrite) {
    return {
        .iova = IovaRange::FromSize(Iova(iova), size).value(), .uaddr = uaddr, .access = access};
  }
  // A batch of updates and of the invalidates of what was mapped.
  static IotlbBatch BatchOf(const std::vector<IotlbEntry>& removed,
                            const std::vector<IotlbEntry>& added) {
    const auto mappings = [](const std::vector<IotlbEntry>& entries) {
      std::vector<Mapping> out;
      out.reserve(entries.size());
      for (const IotlbEntry& e : entries) {
        out.emplace_back(MappingId(out.size() + 1), e.iova, std::nullopt, e.uaddr, e.access,
                         Revision(2));
      }
      return out;
    };
    return IotlbBatch::FromChange(mappings(removed), mappings(added));
  }
  PushOutcome Push(const std::vector<IotlbEntry>& removed, const std::vector<IotlbEntry>& added,
                   Asid asid = Asid(0)) {
    return ApplyBatch(*port_, asid, BatchOf(removed, added));
  }

  ClientAddresses addresses_;
  std::optional<VhostVdpa> device_;
  std::optional<VhostVdpaPort> port_;
  std::optional<VduseClient> vduse_;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_GUEST_DEVICE_FIXTURE_H_
