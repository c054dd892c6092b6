#include "core/memory_model.h"

#include <stdlib.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace iovad {
namespace {

namespace fs = std::filesystem;

constexpr dev_t kDevice = 0xf300;  // 243:0

// A sysfs of its own, as Linux 6.12 lays it out.
class SysfsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(kDevice, makedev(243, 0));
    char path[] = "/tmp/iovad-sysfs-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    root_ = path;
    fs::create_directories(root_ / "dev/char");
    fs::create_directories(root_ / "bus/vdpa");
    fs::create_directories(root_ / "class/vduse");
    fs::create_directories(root_ / "class/mem");
  }
  void TearDown() override { fs::remove_all(root_); }

  // The vDPA device in `vdpa` ("devices/s0"), with its vhost-vdpa device.
  void MakeDevice(const std::string& vdpa) {
    fs::create_directories(root_ / vdpa / "vhost-vdpa-0");
    Link(vdpa + "/subsystem", "bus/vdpa");
    Link("dev/char/243:0", vdpa + "/vhost-vdpa-0");
  }
  void Link(const std::string& from, const std::string& to) {
    fs::create_directory_symlink(root_ / to, root_ / from);
  }
  void Parameter(const std::string& module, const std::string& name, const std::string& value) {
    const fs::path folder = root_ / "module" / module / "parameters";
    fs::create_directories(folder);
    std::ofstream(folder / name) << value << "\n";
  }
  VdpaParent Read() const { return ReadVdpaParent(kDevice, root_.string()); }

  fs::path root_;
};

TEST_F(SysfsTest, Vduse) {
  MakeDevice("devices/virtual/vduse/v0/v0");
  Link("devices/virtual/vduse/v0/subsystem", "class/vduse");
  Parameter("vhost_vdpa", "max_iotlb_entries", "65536");
  Parameter("vduse", "max_iotlb_entries", "2048");
  EXPECT_EQ(IsVhostVdpa(kDevice, root_.string()), VhostVdpaKind::kYes);
  const VdpaParent parent = Read();
  EXPECT_EQ(parent.vdpa_name, "v0");
  EXPECT_EQ(parent.driver, "vduse");
  EXPECT_EQ(parent.memory_model, MemoryModel::kUseVa);
  EXPECT_EQ(parent.entry_budget, 2048U);
}

TEST_F(SysfsTest, Simulator) {
  MakeDevice("devices/s0");
  Parameter("vhost_vdpa", "max_iotlb_entries", "1024");
  Parameter("vdpa_sim", "max_iotlb_entries", "4096");
  Parameter("vdpa_sim", "use_va", "Y");
  EXPECT_EQ(Read().driver, "vdpa_sim");
  EXPECT_EQ(Read().memory_model, MemoryModel::kUseVa);
  EXPECT_EQ(Read().entry_budget, 1024U);
  Parameter("vdpa_sim", "use_va", "N");
  EXPECT_EQ(Read().memory_model, MemoryModel::kPinned);
  Parameter("vhost_vdpa", "max_iotlb_entries", "0");
  EXPECT_EQ(Read().entry_budget, 4096U) << "0 is no limit";
}

TEST_F(SysfsTest, Hardware) {
  MakeDevice("devices/pci0000:00/0000:00:05.0/vdpa0");
  fs::create_directories(root_ / "bus/pci/drivers/octep_vdpa");
  fs::create_directories(root_ / "module/octep");
  Link("devices/pci0000:00/0000:00:05.0/driver", "bus/pci/drivers/octep_vdpa");
  EXPECT_EQ(Read().driver, "octep_vdpa");
  Link("bus/pci/drivers/octep_vdpa/module", "module/octep");
  EXPECT_EQ(Read().driver, "octep");
  EXPECT_EQ(Read().memory_model, MemoryModel::kPinned);
  EXPECT_EQ(Read().entry_budget, kDefaultEntryBudget);
}

TEST_F(SysfsTest, WhatIsNotThereIsUnknown) {
  EXPECT_EQ(IsVhostVdpa(kDevice, root_.string()), VhostVdpaKind::kNo);
  EXPECT_EQ(IsVhostVdpa(kDevice, (root_ / "nowhere").string()), VhostVdpaKind::kUnknown);
  const VdpaParent parent = Read();
  EXPECT_EQ(parent.vdpa_name, "");
  EXPECT_EQ(parent.driver, "");
  EXPECT_EQ(parent.memory_model, MemoryModel::kUnknown);
  EXPECT_EQ(parent.entry_budget, kDefaultEntryBudget);
  MakeDevice("devices/s0");
  EXPECT_EQ(Read().memory_model, MemoryModel::kUnknown) << "no parent, and no simulator";
}

TEST_F(SysfsTest, OtherCharacterDevicesAreNotVhostVdpa) {
  fs::create_directories(root_ / "devices/virtual/mem/null");
  Link("devices/virtual/mem/null/subsystem", "class/mem");
  Link("dev/char/243:0", "devices/virtual/mem/null");
  EXPECT_EQ(IsVhostVdpa(kDevice, root_.string()), VhostVdpaKind::kNo);
}

TEST(MemoryModelTest, Names) {
  EXPECT_EQ(MemoryModelName(MemoryModel::kUseVa), "USE_VA");
  EXPECT_EQ(MemoryModelName(MemoryModel::kPinned), "PINNED");
  EXPECT_EQ(MemoryModelName(MemoryModel::kUnknown), "UNKNOWN");
}

}  // namespace
}  // namespace iovad
