#include "tests/kernel/guest/vduse_client.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iomanip>
#include <sstream>
#include <string_view>

#include "core/unique_fd.h"

namespace iovad {

std::ostream& operator<<(std::ostream& out, const VduseEntry& entry) {
  return out << std::hex << std::showbase << '[' << entry.start << ", " << entry.last << "] "
             << entry.perm << " at " << entry.offset << std::dec << " of " << entry.dev << ':'
             << entry.ino;
}

std::optional<std::string> AskVduseDevice(const std::string& socket, const std::string& command) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  socket.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      write(fd.get(), command.data(), command.size()) != static_cast<ssize_t>(command.size()) ||
      shutdown(fd.get(), SHUT_WR) != 0) {
    std::perror(socket.c_str());
    return std::nullopt;
  }
  std::string answer;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(fd.get(), buffer, sizeof buffer)) > 0;) {
    answer.append(buffer, static_cast<size_t>(got));
  }
  constexpr std::string_view kOk = "ok\n";
  if (answer.size() < kOk.size() ||
      answer.compare(answer.size() - kOk.size(), kOk.size(), kOk) != 0) {
    std::fprintf(stderr, "%s: %s", command.c_str(), answer.c_str());
    return std::nullopt;
  }
  answer.resize(answer.size() - kOk.size());
  return answer;
}

std::vector<VduseEntry> VduseClient::Entries(const std::string& command) const {
  std::istringstream in(AskVduseDevice(socket_, command).value_or(""));
  std::vector<VduseEntry> entries;
  VduseEntry entry;
  char colon = 0;
  while (in >> std::setbase(0) >> entry.start >> entry.last >> entry.perm >> entry.offset >>
         entry.dev >> colon >> entry.ino) {
    entries.push_back(entry);
  }
  return entries;
}

std::vector<uint8_t> VduseClient::Read(uint64_t iova, size_t size) const {
  const std::string text =
      AskVduseDevice(socket_, "read " + std::to_string(iova) + " " + std::to_string(size))
          .value_or("");
  std::vector<uint8_t> bytes;
  for (size_t at = 0; at + 1 < text.size(); at += 2) {
    bytes.push_back(static_cast<uint8_t>(std::strtoul(text.substr(at, 2).c_str(), nullptr, 16)));
  }
  return bytes;
}

std::map<std::string, uint64_t> VduseClient::State() const {
  std::istringstream in(AskVduseDevice(socket_, "state").value_or(""));
  std::map<std::string, uint64_t> numbers;
  for (std::string word; in >> word;) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) continue;
    numbers[word.substr(0, equals)] = std::strtoull(word.c_str() + equals + 1, nullptr, 10);
  }
  return numbers;
}

bool VduseClient::Do(const std::string& command) const {
  return AskVduseDevice(socket_, command).has_value();
}

}  // namespace iovad
