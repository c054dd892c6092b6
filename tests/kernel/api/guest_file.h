// A guest's memory as VMMs share it: a file in /dev/shm, all of whose pages exist.
//
// Thread safety. A value.
//
// Example:
//   GuestFile ram(1 << 30);
//   memory.set_path(ram.path());
#ifndef IOVAD_TESTS_KERNEL_API_GUEST_FILE_H_
#define IOVAD_TESTS_KERNEL_API_GUEST_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/unique_fd.h"

namespace iovad {

class GuestFile {
 public:
  explicit GuestFile(uint64_t size);
  // The file goes.
  ~GuestFile();
  GuestFile(const GuestFile&) = delete;
  GuestFile& operator=(const GuestFile&) = delete;

  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  char* at(uint64_t offset) const { return base_ + offset; }

  // Physically contiguous runs of its pages: a device that pins them has an entry for each.
  size_t Runs() const;

 private:
  const uint64_t size_;
  const std::string path_;
  UniqueFd fd_;
  char* base_ = nullptr;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_GUEST_FILE_H_
