#include "tests/bench/c_caller.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace iovad::bench {
namespace {

void Must(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  std::exit(1);
}

}  // namespace

CCaller::CCaller(const std::string& address, const std::string& space) {
  int in[2];
  int out[2];
  Must(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::string words[] = {std::filesystem::read_symlink("/proc/self/exe").parent_path() / "c_caller",
                         address, space};
  char* pointers[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  Must(posix_spawn(&pid_, pointers[0], &actions, nullptr, pointers, environ) == 0, pointers[0]);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  to_ = fdopen(in[1], "w");
  from_ = fdopen(out[0], "r");
  Must(to_ != nullptr && from_ != nullptr, "fdopen");
  Must(Line() == "ready\n", "c_caller");
}

CCaller::~CCaller() {
  std::fclose(to_);
  std::fclose(from_);
  waitpid(pid_, nullptr, 0);
}

std::string CCaller::Line() {
  char line[64];
  Must(std::fgets(line, sizeof(line), from_) != nullptr, "c_caller");
  return line;
}

void CCaller::WaitFor(Revision revision) {
  std::fprintf(to_, "wait %llu\n", static_cast<unsigned long long>(revision.value()));
  std::fflush(to_);
  Must(Line() == "ok\n", "c_caller");
}

CCaller::Vectors CCaller::Translate(const std::vector<uint64_t>& gpas,
                                    const std::vector<uint64_t>& hvas) {
  std::fprintf(to_, "vec %zu\n", gpas.size());
  std::fwrite(gpas.data(), sizeof(uint64_t), gpas.size(), to_);
  std::fwrite(hvas.data(), sizeof(uint64_t), hvas.size(), to_);
  std::fflush(to_);
  const std::string line = Line();
  Vectors vectors;
  Must(std::sscanf(line.c_str(), "%lf %lf", &vectors.by_gpa, &vectors.by_hva) == 2, "c_caller");
  return vectors;
}

}  // namespace iovad::bench
