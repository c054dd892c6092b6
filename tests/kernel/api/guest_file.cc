#include "tests/kernel/api/guest_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {

GuestFile::GuestFile(uint64_t size)
    : size_(size), path_(absl::StrCat("/dev/shm/guest-", size, ".ram")) {
  fd_ = UniqueFd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_EQ(ftruncate(fd_.get(), static_cast<off_t>(size_)), 0);
  void* const base = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  EXPECT_NE(base, MAP_FAILED);
  base_ = static_cast<char*>(base);
  std::memset(base_, 1, size_);
}

GuestFile::~GuestFile() {
  munmap(base_, size_);
  unlink(path_.c_str());
}

size_t GuestFile::Runs() const {
  // Documentation/admin-guide/mm/pagemap.rst: 8 bytes a page, the frame in bits 0 to 54.
  constexpr uint64_t kFrame = (1ULL << 55) - 1;
  std::vector<uint64_t> pages(size_ / kPage);
  const size_t bytes = pages.size() * sizeof(uint64_t);
  const auto at = reinterpret_cast<uintptr_t>(base_) / kPage * sizeof(uint64_t);
  const UniqueFd map(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(pread(map.get(), pages.data(), bytes, static_cast<off_t>(at)),
            static_cast<ssize_t>(bytes));
  size_t runs = 1;
  for (size_t i = 1; i < pages.size(); ++i) {
    if ((pages[i] & kFrame) != (pages[i - 1] & kFrame) + 1) ++runs;
  }
  return runs;
}

}  // namespace iovad
