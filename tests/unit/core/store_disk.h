// A small disk for a store, and what fills it.
#ifndef IOVAD_TESTS_UNIT_CORE_STORE_DISK_H_
#define IOVAD_TESTS_UNIT_CORE_STORE_DISK_H_

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <string>

#include "tests/unit/core/store_helpers.h"

namespace iovad::store {

// Runs `body` in a process of its own that may mount, on a tmpfs of so many bytes.
inline void OnTmpfs(const std::string& bytes, const StoreDirectory& directory,
                    void (*body)(const StoreDirectory&)) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to mount a small tmpfs";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", directory.root().c_str(), "tmpfs", 0, ("size=" + bytes).c_str()) != 0) {
      _exit(77);
    }
    body(directory);
    std::cout.flush();
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
    GTEST_SKIP() << "may not mount here";
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

// Leaves no room beside the store. The name of what takes it.
inline std::string FillDisk(const StoreDirectory& directory) {
  std::string filler = directory.root() + "/filler";
  std::ofstream out(filler, std::ios::binary);
  const std::string block(4096, 'f');
  while (out.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
  }
  return filler;
}

}  // namespace iovad::store

#endif  // IOVAD_TESTS_UNIT_CORE_STORE_DISK_H_
