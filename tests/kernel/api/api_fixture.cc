#include "tests/kernel/api/api_fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace iovad {
namespace {

std::string FreshName(const char* stem) {
  static int number = 0;
  return absl::StrCat(stem, "-", getpid(), "-", ++number);
}

const char* Permission(v1::Access access) {
  switch (access) {
    case v1::ACCESS_READ_ONLY:
      return "r";
    case v1::ACCESS_WRITE_ONLY:
      return "w";
    default:
      return "rw";
  }
}

}  // namespace

GuestMemory::GuestMemory(uint64_t size)
    : fd_(memfd_create("guest memory", MFD_CLOEXEC | MFD_ALLOW_SEALING)), size_(size) {
  EXPECT_EQ(ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
  EXPECT_EQ(fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  void* const base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  EXPECT_NE(base, MAP_FAILED);
  base_ = static_cast<char*>(base);
}

GuestMemory::~GuestMemory() { munmap(base_, size_); }

uint64_t GuestMemory::hva(uint64_t offset) const {
  return reinterpret_cast<uintptr_t>(base_) + offset;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  EXPECT_NE(value, nullptr) << name << " is not set";
  return value == nullptr ? "" : value;
}

uint64_t PinnedBytes(const std::string& pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "VmPin:")) return std::stoull(line.substr(6)) * 1024;
  }
  ADD_FAILURE() << "no VmPin of process " << pid;
  return 0;
}

void ApiTest::SetUp() {
  Connect();
  if (const char* socket = std::getenv("IOVAD_TEST_VDUSE_SOCKET")) vduse_.emplace(socket);
}

void ApiTest::Connect() {
  auto iovad = client::Connection::Open(Environment("IOVAD_SOCKET"));
  ASSERT_TRUE(iovad.ok()) << iovad.status();
  iovad_ = *std::move(iovad);
  auto fds = client::FdSocket::Connect(Done(iovad_->GetServerInfo({})).fd_socket());
  ASSERT_TRUE(fds.ok()) << fds.status();
  fds_.emplace(*std::move(fds));
}

void ApiTest::TearDown() {
  for (const std::string& space : spaces_) {
    v1::DeleteSpaceRequest request;
    request.set_space(space);
    request.set_force(true);
    EXPECT_TRUE(iovad_->DeleteSpace(request).ok());
  }
  while (!devices_.empty()) {
    const std::string device = devices_.back();
    const absl::Status closed = Close(device);
    EXPECT_TRUE(closed.ok()) << closed;
  }
}

std::string ApiTest::MakeSpace(v1::CreateSpaceRequest request) {
  request.set_space(FreshName("space"));
  if (request.placement() == v1::PLACEMENT_UNSPECIFIED) {
    request.set_placement(v1::PLACEMENT_FIRST_FIT);
  }
  request.mutable_reserved();
  Done(iovad_->CreateSpace(request));
  return spaces_.emplace_back(request.space());
}

std::string ApiTest::OpenDevice(const std::string& path) {
  v1::OpenDeviceRequest request;
  request.set_device(FreshName("device"));
  request.set_path(path);
  Done(iovad_->OpenDevice(request));
  return devices_.emplace_back(request.device());
}

v1::Device ApiTest::GetDevice(const std::string& name) {
  v1::GetDeviceRequest request;
  request.set_device(name);
  return Done(iovad_->GetDevice(request)).device();
}

absl::StatusOr<v1::AttachDeviceResponse> ApiTest::TryAttach(const std::string& space,
                                                            const std::string& device,
                                                            uint32_t asid,
                                                            const std::vector<uint32_t>& groups) {
  v1::AttachDeviceRequest request;
  request.set_space(space);
  request.set_device(device);
  request.set_asid(asid);
  for (const uint32_t group : groups) request.add_groups(group);
  return iovad_->AttachDevice(request);
}

v1::Space ApiTest::Attach(const std::string& space, const std::string& device, uint32_t asid,
                          const std::vector<uint32_t>& groups) {
  return Done(TryAttach(space, device, asid, groups)).space();
}

void ApiTest::Detach(const std::string& space, const std::string& device, uint32_t asid) {
  v1::DetachDeviceRequest request;
  request.set_space(space);
  request.set_device(device);
  request.set_asid(asid);
  Done(iovad_->DetachDevice(request));
}

std::string ApiTest::Deposit(FdKind kind, int fd) { return Done(fds_->Deposit(kind, "test", fd)); }

uint64_t ApiTest::Register(const std::string& space, const GuestMemory& memory) {
  v1::RegisterMemoryRequest request;
  request.set_space(space);
  request.set_hva(memory.hva());
  request.set_size(memory.size());
  request.set_fd_handle(Deposit(FdKind::kMemory, memory.fd()));
  return Done(iovad_->RegisterMemory(request)).memory().memory_id();
}

std::vector<v1::Mapping> ApiTest::ListMappings(const std::string& space) {
  std::vector<v1::Mapping> all;
  v1::ListMappingsRequest request;
  request.set_space(space);
  do {
    const v1::ListMappingsResponse page = Done(iovad_->ListMappings(request));
    all.insert(all.end(), page.mappings().begin(), page.mappings().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

absl::StatusOr<v1::Mapping> ApiTest::Map(const std::string& space, uint64_t hva, uint64_t size,
                                         std::optional<uint64_t> gpa, std::optional<uint64_t> iova,
                                         v1::Access access) {
  v1::MapRequest request;
  request.set_space(space);
  v1::MappingSpec& spec = *request.mutable_mapping();
  spec.set_hva(hva);
  spec.set_size(size);
  spec.set_access(access);
  if (gpa.has_value()) spec.set_gpa(*gpa);
  if (iova.has_value()) spec.set_iova(*iova);
  const absl::StatusOr<v1::MapResponse> answer = iovad_->Map(request);
  if (!answer.ok()) return answer.status();
  return answer->mapping();
}

absl::Status ApiTest::UnmapIova(const std::string& space, uint64_t iova) {
  v1::UnmapRequest request;
  request.set_space(space);
  request.mutable_target()->set_at_iova(iova);
  return iovad_->Unmap(request).status();
}

absl::Status ApiTest::Close(const std::string& device) {
  v1::CloseDeviceRequest request;
  request.set_device(device);
  std::erase(devices_, device);
  return iovad_->CloseDevice(request).status();
}

void ApiTest::ExpectTable(const std::string& space, const std::string& device, uint32_t asid) {
  const std::vector<v1::Mapping> mappings = ListMappings(space);
  const v1::Device described = GetDevice(device);
  for (const v1::DeviceAttachment& a : described.attachments()) {
    if (a.asid() != asid) continue;
    EXPECT_EQ(a.entries(), mappings.size());
    EXPECT_EQ(a.state(), v1::ATTACHMENT_STATE_LIVE);
  }
  if (vduse_.has_value()) ExpectEntries(space, *vduse_);
}

void ApiTest::ExpectEntries(const std::string& space, const VduseClient& vduse) {
  const std::vector<v1::Mapping> mappings = ListMappings(space);
  v1::ListMemoryRequest request;
  request.set_space(space);
  std::map<uint64_t, v1::Memory> memories;  // by HVA
  std::map<uint64_t, struct stat> files;    // by memory
  const v1::ListMemoryResponse listed = Done(iovad_->ListMemory(request));
  for (const v1::Memory& memory : listed.memory()) {
    v1::GetMemoryHandleRequest get;
    get.set_space(space);
    get.set_memory_id(memory.memory_id());
    const auto file = fds_->Withdraw(Done(iovad_->GetMemoryHandle(get)).fd_handle());
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ(fstat(file->fd.get(), &files[memory.memory_id()]), 0);
    memories[memory.hva()] = memory;
  }
  std::vector<VduseEntry> expected;
  for (const v1::Mapping& m : mappings) {
    const auto above = memories.upper_bound(m.hva());
    ASSERT_NE(above, memories.begin());
    const v1::Memory& memory = std::prev(above)->second;
    const struct stat& file = files[memory.memory_id()];
    expected.push_back({m.iova(), m.iova() + m.size() - 1, Permission(m.access()),
                        m.hva() - memory.hva() + memory.offset(), file.st_dev, file.st_ino});
  }
  EXPECT_THAT(vduse.Dump(), ::testing::ElementsAreArray(expected));
  EXPECT_THAT(vduse.DumpNow(), ::testing::ElementsAreArray(expected));
}

}  // namespace iovad
