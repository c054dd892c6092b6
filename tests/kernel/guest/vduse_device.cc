#include "tests/kernel/guest/vduse_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace iovad {
namespace {

// linux/virtio_net.h is not for C++: it has a member `class`. See virtio 1.2,
// 5.1.3 and 5.1.4.
constexpr unsigned kNetFeatureMtu = 3;
constexpr unsigned kNetFeatureMac = 5;
struct NetConfig {
  uint8_t mac[6];
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
};

constexpr uint64_t Bit(unsigned number) { return uint64_t{1} << number; }

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "vduse_device: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

// The device's description with its configuration space behind it.
std::vector<uint8_t> Description(const VduseOptions& options) {
  virtio_blk_config blk = {};
  blk.capacity = 2048;
  blk.blk_size = 512;
  blk.num_queues = static_cast<uint16_t>(options.queues);
  NetConfig net = {};
  constexpr uint8_t kMac[] = {0x02, 0, 0, 0, 0, 0x77};
  std::copy(std::begin(kMac), std::end(kMac), net.mac);
  net.max_virtqueue_pairs = static_cast<uint16_t>(options.queues / 2);
  net.mtu = 1500;
  const bool is_net = options.device_id == VIRTIO_ID_NET;
  const size_t config_size = is_net ? sizeof net : sizeof blk;

  vduse_dev_config description = {};
  std::snprintf(description.name, sizeof description.name, "%s", options.name.c_str());
  description.device_id = options.device_id;
  // VDUSE takes no device without ACCESS_PLATFORM (vduse_dev.c, features_is_valid).
  description.features = Bit(VIRTIO_F_VERSION_1) | Bit(VIRTIO_F_ACCESS_PLATFORM);
  description.features |= is_net ? Bit(kNetFeatureMac) | Bit(kNetFeatureMtu)
                                 : Bit(VIRTIO_BLK_F_BLK_SIZE) | Bit(VIRTIO_BLK_F_MQ);
  description.vq_num = options.queues;
  description.vq_align = 4096;
  description.config_size = static_cast<uint32_t>(config_size);
  std::vector<uint8_t> bytes(sizeof description + config_size);
  std::memcpy(bytes.data(), &description, sizeof description);
  const void* config = is_net ? static_cast<const void*>(&net) : &blk;
  std::memcpy(bytes.data() + sizeof description, config, config_size);
  return bytes;
}

}  // namespace

VduseDevice::VduseDevice(const VduseOptions& options)
    : name_(options.name), control_(open("/dev/vduse/control", O_RDWR | O_CLOEXEC)) {
  uint64_t version = VDUSE_API_VERSION;
  if (!control_ || ioctl(control_.get(), VDUSE_SET_API_VERSION, &version) != 0) {
    Die("/dev/vduse/control");
  }
  std::vector<uint8_t> description = Description(options);
  if (ioctl(control_.get(), VDUSE_CREATE_DEV, description.data()) != 0) Die("VDUSE_CREATE_DEV");
  const std::string path = "/dev/vduse/" + name_;
  device_ = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!device_) Die(path);
  for (uint32_t index = 0; index < options.queues; ++index) {
    vduse_vq_config queue = {};
    queue.index = index;
    queue.max_size = options.queue_size;
    if (ioctl(device_.get(), VDUSE_VQ_SETUP, &queue) != 0) Die("VDUSE_VQ_SETUP");
    UniqueFd kick(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    queues_.push_back({std::move(kick)});
  }
}

VduseDevice::~VduseDevice() {
  device_.Reset();
  char name[VDUSE_NAME_MAX] = {};
  name_.copy(name, sizeof name - 1);
  if (ioctl(control_.get(), VDUSE_DESTROY_DEV, name) != 0) {
    std::fprintf(stderr, "vduse_device: %s stays: %s\n", name, std::strerror(errno));
  }
}

bool VduseDevice::HandleRequest() {
  vduse_dev_request request = {};
  const ssize_t got = read(device_.get(), &request, sizeof request);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (static_cast<size_t>(got) != sizeof request) return false;
  if (request.type < std::size(requests_)) ++requests_[request.type];

  vduse_dev_response response = {};
  response.request_id = request.request_id;
  response.result = mode_ == Mode::kRefuse ? VDUSE_REQ_RESULT_FAILED : VDUSE_REQ_RESULT_OK;
  if (response.result == VDUSE_REQ_RESULT_OK) {
    switch (request.type) {
      case VDUSE_UPDATE_IOTLB:
        Replace(request.iova.start, request.iova.last);
        break;
      case VDUSE_SET_STATUS:
        SetStatus(request.s.status);
        break;
      case VDUSE_GET_VQ_STATE:
        // Where the driver set it to: nothing was taken from the queue since.
        response.vq_state.index = request.vq_state.index;
        if (const auto info = QueueInfo(request.vq_state.index)) {
          response.vq_state.split = info->split;
        }
        break;
      default:
        response.result = VDUSE_REQ_RESULT_FAILED;
    }
  }
  const ssize_t sent = write(device_.get(), &response, sizeof response);
  // ENOENT: the driver was killed while it waited for this answer.
  return sent == static_cast<ssize_t>(sizeof response) || (sent < 0 && errno == ENOENT);
}

void VduseDevice::SetStatus(uint8_t status) {
  const bool starts =
      (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (status_ & VIRTIO_CONFIG_S_DRIVER_OK) == 0;
  status_ = status;
  if (!starts) return;
  // Not before: the kernel forgets them at a reset (vduse_dev_reset). A kick that
  // came earlier is not lost, it comes now.
  for (size_t index = 0; index < queues_.size(); ++index) {
    vduse_vq_eventfd setup = {};
    setup.index = static_cast<uint32_t>(index);
    setup.fd = queues_[index].kick.get();
    if (ioctl(device_.get(), VDUSE_VQ_SETUP_KICKFD, &setup) != 0) {
      std::perror("vduse_device: VDUSE_VQ_SETUP_KICKFD");
    }
  }
}

VduseDevice::Table VduseDevice::Fetch(uint64_t start, uint64_t last) const {
  Table table;
  for (uint64_t at = start;;) {
    vduse_iotlb_entry found = {};
    found.start = at;
    found.last = last;
    UniqueFd file(ioctl(device_.get(), VDUSE_IOTLB_GET_FD, &found));
    if (!file) {
      // EINVAL: nothing more. EPERM: no vDPA device is made of it yet.
      if (errno != EINVAL && errno != EPERM) std::perror("vduse_device: VDUSE_IOTLB_GET_FD");
      return table;
    }
    struct stat info = {};
    fstat(file.get(), &info);
    table.emplace(found.start, Entry{found.start, found.last, found.perm, found.offset, info.st_dev,
                                     info.st_ino, std::move(file)});
    if (found.last >= last) return table;
    at = found.last + 1;
  }
}

void VduseDevice::Replace(uint64_t start, uint64_t last) {
  auto it = table_.begin();
  while (it != table_.end()) {
    const Entry& entry = it->second;
    it = entry.last < start || entry.start > last ? std::next(it) : table_.erase(it);
  }
  table_.merge(Fetch(start, last));
}

std::vector<uint8_t> VduseDevice::Read(uint64_t iova, size_t size) const {
  std::vector<uint8_t> bytes;
  while (bytes.size() < size) {
    const uint64_t at = iova + bytes.size();
    auto it = table_.upper_bound(at);
    if (it == table_.begin()) break;
    const Entry& entry = std::prev(it)->second;
    if (entry.last < at) break;
    // last - at + 1 may be 2^64.
    const size_t rest = size - bytes.size();
    const size_t part = entry.last - at < rest ? entry.last - at + 1 : rest;
    std::vector<uint8_t> chunk(std::min<size_t>(part, 65536));
    const ssize_t got = pread(entry.file.get(), chunk.data(), chunk.size(),
                              static_cast<off_t>(entry.offset + (at - entry.start)));
    if (got <= 0) break;
    bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + got);
    if (at + static_cast<uint64_t>(got) == 0) break;  // past 2^64 - 1
  }
  return bytes;
}

void VduseDevice::CountKick(size_t index) {
  uint64_t count = 0;
  if (read(queues_[index].kick.get(), &count, sizeof count) == sizeof count) {
    queues_[index].kicks += count;
  }
}

std::optional<vduse_vq_info> VduseDevice::QueueInfo(size_t index) const {
  vduse_vq_info info = {};
  info.index = static_cast<uint32_t>(index);
  if (ioctl(device_.get(), VDUSE_VQ_GET_INFO, &info) != 0) return std::nullopt;
  return info;
}

int VduseDevice::Interrupt(size_t index) {
  auto number = static_cast<uint32_t>(index);
  return ioctl(device_.get(), VDUSE_VQ_INJECT_IRQ, &number) == 0 ? 0 : errno;
}

}  // namespace iovad
