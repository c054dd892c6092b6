// What is no vhost-vdpa device, and where addresses lie: without a device.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "core/error.h"
#include "core/uaddr_resolver.h"
#include "core/vhost_vdpa.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;

TEST(VhostVdpaOpenTest, OtherFilesAreRefused) {
  struct Case {
    const char* path;
    Reason reason;
    int os_errno;
  };
  const Case cases[] = {
      {"/dev/null", Reason::kInvalidValue, 0},
      {"/dev/zero", Reason::kInvalidValue, 0},
      {"/dev", Reason::kInvalidValue, 0},
      {"/proc/self/maps", Reason::kInvalidValue, 0},
      {"/dev/vhost-vdpa-none", Reason::kDeviceNotFound, ENOENT},
      {"/dev/null/x", Reason::kDeviceNotFound, ENOTDIR},
      {"", Reason::kDeviceNotFound, ENOENT},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.path);
    const absl::Status status = VhostVdpa::Open(c.path, "net0").status();
    EXPECT_EQ(ReasonOf(status), c.reason) << status;
    EXPECT_EQ(DetailOf(status)->os_errno, c.os_errno);
    EXPECT_EQ(DetailOf(status)->device, "net0");
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.path));
  }
}

TEST(VhostVdpaOpenTest, AFifoDoesNotBlock) {
  char folder[] = "/tmp/iovad-open-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(ReasonOf(VhostVdpa::Open(path, "net0").status()), Reason::kInvalidValue);
  unlink(path.c_str());
  rmdir(folder);
}

TEST(VhostVdpaOpenTest, OtherDescriptorsAreRefusedAndClosed) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd other_end(pipe_fds[1]);
  const int fds[] = {pipe_fds[0], open("/dev/null", O_RDWR | O_CLOEXEC),
                     memfd_create("memory", MFD_CLOEXEC)};
  for (const int fd : fds) {
    ASSERT_GE(fd, 0);
    const absl::Status status = VhostVdpa::Adopt(UniqueFd(fd), "net0").status();
    EXPECT_EQ(ReasonOf(status), Reason::kInvalidValue) << status;
    EXPECT_EQ(fcntl(fd, F_GETFD), -1) << "still open";
  }
  EXPECT_EQ(DetailOf(VhostVdpa::Adopt(UniqueFd(), "net0").status())->os_errno, EBADF);
}

IotlbEntry Entry(uint64_t uaddr, uint64_t size, uint64_t memory) {
  return {.iova = *IovaRange::FromSize(Iova(0x100000), size),
          .uaddr = Hva(uaddr),
          .memory = MemoryId(memory)};
}

TEST(UaddrResolverTest, ClientAddressesAreTheClients) {
  EXPECT_EQ(ClientAddresses().Local(Entry(0x7000, 0x1000, 5)), Hva(0x7000));
}

TEST(UaddrResolverTest, RegisteredAddressesHoldWholeEntries) {
  RegisteredAddresses memory;
  ASSERT_TRUE(memory.Add(MemoryId(1), *HvaRange::FromSize(Hva(0x10000), 0x4000), Hva(0x900000)));
  ASSERT_TRUE(
      memory.Add(MemoryId(2), HvaRange(Hva(0xfffffffffffff000), Hva(kMaxAddress)), Hva(0xa00000)));
  EXPECT_FALSE(memory.Add(MemoryId(1), *HvaRange::FromSize(Hva(0), 0x1000), Hva(0)));
  struct Case {
    IotlbEntry entry;
    std::optional<Hva> local;
  };
  const Case cases[] = {
      {Entry(0x10000, 0x4000, 1), Hva(0x900000)},
      {Entry(0x13000, 0x1000, 1), Hva(0x903000)},
      {Entry(0x13fff, 1, 1), Hva(0x903fff)},
      {Entry(0x13000, 0x1001, 1), std::nullopt},
      {Entry(0x0ffff, 1, 1), std::nullopt},
      {Entry(0x14000, 1, 1), std::nullopt},
      {Entry(0x10000, 0x1000, 0), std::nullopt},
      {Entry(0x10000, 0x1000, 3), std::nullopt},
      {Entry(0xfffffffffffff000, 0x1000, 2), Hva(0xa00000)},
      {Entry(0xffffffffffffffff, 1, 2), Hva(0xa00fff)},
      {Entry(0xffffffffffffffff, 2, 2), std::nullopt},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(memory.Local(c.entry), c.local) << std::hex << c.entry.uaddr.value();
  }
  EXPECT_TRUE(memory.Contains(MemoryId(1)));
  EXPECT_TRUE(memory.Remove(MemoryId(1)));
  EXPECT_FALSE(memory.Remove(MemoryId(1)));
  EXPECT_EQ(memory.Local(Entry(0x10000, 0x1000, 1)), std::nullopt);
}

}  // namespace
}  // namespace iovad
