// A directory for one test, gone with everything in it afterwards.
#ifndef IOVAD_TESTS_UNIT_SERVER_TEMPORARY_DIRECTORY_H_
#define IOVAD_TESTS_UNIT_SERVER_TEMPORARY_DIRECTORY_H_

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace iovad {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    // Short, since socket paths are.
    char path[] = "/tmp/iovad-XXXXXX";
    path_ = mkdtemp(path);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_SERVER_TEMPORARY_DIRECTORY_H_
