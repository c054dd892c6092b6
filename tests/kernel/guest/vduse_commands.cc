#include "tests/kernel/guest/vduse_commands.h"

#include <cstring>
#include <iomanip>
#include <sstream>

namespace iovad {
namespace {

constexpr char kOk[] = "ok\n";
constexpr const char* kPerms[] = {"-", "r", "w", "rw"};

std::string Error(const std::string& what) { return "error: " + what + "\n"; }

std::string Dump(const VduseDevice::Table& table) {
  std::ostringstream out;
  for (const auto& [start, entry] : table) {
    out << std::hex << std::showbase << start << ' ' << entry.last << ' ' << kPerms[entry.perm & 3]
        << ' ' << entry.offset << std::dec << ' ' << entry.dev << ':' << entry.ino << '\n';
  }
  return out.str() + kOk;
}

std::string Read(const VduseDevice& device, std::istream& arguments) {
  uint64_t iova = 0;
  size_t size = 0;
  if (!(arguments >> std::setbase(0) >> iova >> size)) return Error("read IOVA SIZE");
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : device.Read(iova, size)) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text + "\n" + kOk;
}

const char* ModeName(VduseDevice::Mode mode) {
  switch (mode) {
    case VduseDevice::Mode::kAnswer:
      return "answer";
    case VduseDevice::Mode::kRefuse:
      return "refuse";
    case VduseDevice::Mode::kHang:
      return "hang";
  }
  return "?";
}

std::string State(const VduseDevice& device) {
  std::ostringstream out;
  out << "updates=" << device.requests(VDUSE_UPDATE_IOTLB)
      << " statuses=" << device.requests(VDUSE_SET_STATUS)
      << " vq_states=" << device.requests(VDUSE_GET_VQ_STATE)
      << " status=" << unsigned{device.status()} << " entries=" << device.Entries().size()
      << " mode=" << ModeName(device.mode()) << '\n';
  return out.str() + kOk;
}

std::string Queues(const VduseDevice& device) {
  std::ostringstream out;
  for (size_t index = 0; index < device.queues(); ++index) {
    const auto info = device.QueueInfo(index);
    if (!info) return Error("VDUSE_VQ_GET_INFO");
    out << index << " size=" << info->num << std::hex << std::showbase
        << " desc=" << info->desc_addr << " driver=" << info->driver_addr
        << " device=" << info->device_addr << std::dec << " ready=" << unsigned{info->ready}
        << " kicks=" << device.queue(index).kicks << '\n';
  }
  return out.str() + kOk;
}

std::string Interrupt(VduseDevice& device, std::istream& arguments) {
  size_t index = 0;
  if (!(arguments >> index) || index >= device.queues()) return Error("interrupt INDEX");
  const int error = device.Interrupt(index);
  return error == 0 ? kOk : Error(std::strerror(error));
}

}  // namespace

std::string AnswerVduseCommand(VduseDevice& device, const std::string& command) {
  std::istringstream words(command);
  std::string word;
  words >> word;
  if (word == "dump") {
    return words >> word && word == "now" ? Dump(device.CurrentEntries()) : Dump(device.Entries());
  }
  if (word == "read") return Read(device, words);
  if (word == "state") return State(device);
  if (word == "queues") return Queues(device);
  if (word == "interrupt") return Interrupt(device, words);
  for (const auto mode :
       {VduseDevice::Mode::kAnswer, VduseDevice::Mode::kRefuse, VduseDevice::Mode::kHang}) {
    if (word != ModeName(mode)) continue;
    device.set_mode(mode);
    return kOk;
  }
  return Error("no such command");
}

}  // namespace iovad
