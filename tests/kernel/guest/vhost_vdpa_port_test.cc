// IOTLB batches on devices of a real kernel: what is refused, why, and that a
// refused batch leaves no trace.
#include <sys/resource.h>

#include <algorithm>

#include "core/memlock.h"
#include "tests/kernel/guest/device_fixture.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PortTest : public DeviceTest {
 protected:
  // The kernel holds exactly `entries`, whatever the device can show: each can
  // be mapped once more only after it went.
  void ExpectHolds(const std::vector<IotlbEntry>& entries, Asid asid = Asid(0)) {
    for (const IotlbEntry& e : entries) {
      EXPECT_EQ(RawUpdate(e, asid), EFAULT) << "not there: " << e.iova.first().value();
    }
    EXPECT_EQ(port_->mappings(asid), entries.size());
  }
  int RawUpdate(const IotlbEntry& e, Asid asid = Asid(0)) {
    return device_->Send(VHOST_IOTLB_UPDATE, asid, e.iova.first(), e.iova.size(), e.uaddr,
                         VHOST_ACCESS_RW);
  }
  int RawInvalidate(const IotlbEntry& e, Asid asid = Asid(0)) {
    return device_->Send(VHOST_IOTLB_INVALIDATE, asid, e.iova.first(), e.iova.size());
  }

  const TestMemory memory_ = TestMemory::Shared(64 * kPage);
};

TEST_F(PortTest, AppliesABatch) {
  const IotlbEntry a = At(0x10000, 4 * kPage, memory_.at(0));
  const IotlbEntry b = At(0x80000000, kPage, memory_.at(5 * kPage), Access::kReadOnly);
  ASSERT_TRUE(Push({}, {a, b}).ok()) << port_->failure();
  EXPECT_TRUE(port_->failure().ok());
  ExpectHolds({a, b});
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, 4 * kPage, 0),
                                            memory_.Entry(0x80000000, kPage, 5 * kPage, "r")));
  }
  ASSERT_TRUE(Push({a}, {At(0x12000, kPage, memory_.at(0))}).ok());
  ExpectHolds({b, At(0x12000, kPage, memory_.at(0))});
}

TEST_F(PortTest, ARefusedBatchLeavesNoTrace) {
  const IotlbEntry a = At(0x10000, 4 * kPage, memory_.at(0));
  const IotlbEntry b = At(0x20000, kPage, memory_.at(4 * kPage));
  const IotlbEntry c = At(0x30000, kPage, memory_.at(5 * kPage));
  ASSERT_TRUE(Push({}, {a, b}).ok());
  // Placed behind the port's back.
  const IotlbEntry hidden = At(0x50000, 2 * kPage, memory_.at(8 * kPage));
  ASSERT_EQ(RawUpdate(hidden), 0);

  const PushOutcome outcome = Push({a}, {c, At(0x51000, kPage, memory_.at(9 * kPage))});
  EXPECT_EQ(outcome.os_errno, EFAULT);
  EXPECT_EQ(outcome.failed_index, 2U);
  EXPECT_TRUE(outcome.reverted);
  EXPECT_FALSE(outcome.emptied);
  EXPECT_EQ(ReasonOf(port_->failure()), Reason::kDeviceError) << port_->failure();
  EXPECT_THAT(std::string(port_->failure().message()), HasSubstr("overlaps"));
  EXPECT_EQ(DetailOf(port_->failure())->os_errno, EFAULT);
  EXPECT_EQ(DetailOf(port_->failure())->device, "net0");
  ASSERT_EQ(RawInvalidate(hidden), 0);
  ExpectHolds({a, b});
  EXPECT_EQ(RawUpdate(c), 0) << "taken back";
  EXPECT_EQ(RawInvalidate(c), 0);
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, 4 * kPage, 0),
                                            memory_.Entry(0x20000, kPage, 4 * kPage)));
    EXPECT_EQ(vduse_->Dump(), vduse_->DumpNow());
  }
}

TEST_F(PortTest, AFullTableIsNamed) {
  // Each page of the memory many times over: chunks of one page also where the
  // pages are pinned.
  // Else 2,048 pinned pages are at the limit too.
  const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &unlimited), 0);
  const uint64_t budget = device_->info().entry_budget();
  std::vector<IotlbEntry> entries;
  for (uint64_t i = 0; i <= budget; ++i) {
    entries.push_back(At(0x100000 + 2 * i * kPage, kPage, memory_.at(i % 64 * kPage)));
  }
  const PushOutcome outcome = Push({}, entries);
  EXPECT_EQ(outcome.os_errno, EFAULT);
  EXPECT_EQ(outcome.failed_index, budget);
  EXPECT_TRUE(outcome.reverted);
  const absl::Status failure = port_->failure();
  EXPECT_EQ(ReasonOf(failure), Reason::kEntryBudget) << failure;
  EXPECT_EQ(DetailOf(failure)->limit, budget);
  EXPECT_EQ(DetailOf(failure)->needed, budget + 1);
  EXPECT_EQ(port_->mappings(Asid(0)), 0U);

  entries.pop_back();
  EXPECT_TRUE(Push({}, entries).ok())
      << "all that fits, after all was taken back: " << port_->failure();
  EXPECT_EQ(port_->mappings(Asid(0)), budget);
  EXPECT_TRUE(Push(entries, {}).ok());
  EXPECT_EQ(port_->mappings(Asid(0)), 0U);
}

TEST_F(PortTest, AFailureAtIova0NeedsAReplay) {
  const IotlbEntry a = At(0x10000, 4 * kPage, memory_.at(0));
  ASSERT_TRUE(Push({}, {a}).ok());
  // The kernel's half of the addresses; nobody looks at the memory beforehand.
  VhostVdpaPort trusting(*device_, addresses_, VhostVdpaPort::MemoryCheck::kOnRegistration);
  const PushOutcome outcome =
      ApplyBatch(trusting, Asid(0), BatchOf({}, {At(0, kPage, Hva(0xffff800000000000))}));
  EXPECT_EQ(outcome.os_errno, EFAULT);
  EXPECT_TRUE(outcome.emptied);
  EXPECT_EQ(ReasonOf(trusting.failure()), Reason::kMemoryUnsuitable) << trusting.failure();

  // Whether it did go or not.
  ASSERT_EQ(port_->Clear(Asid(0)), 0);
  EXPECT_EQ(port_->mappings(Asid(0)), 0U);
  ASSERT_TRUE(Push({}, {a}).ok()) << port_->failure();
  ExpectHolds({a});
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, 4 * kPage, 0)));
  }
}

TEST_F(PortTest, ClearsAnAddressSpaceThatHoldsNothing) {
  EXPECT_EQ(port_->Clear(Asid(0)), 0) << port_->failure();
  ASSERT_TRUE(
      Push({}, {At(0, kPage, memory_.at(0)), At(0xfffffffffffff000, kPage, memory_.at(0))}).ok());
  EXPECT_EQ(port_->Clear(Asid(0)), 0);
  EXPECT_TRUE(Push({}, {At(0xfffffffffffff000, kPage, memory_.at(0))}).ok());
}

TEST_F(PortTest, PrivateMemoryIsForPinnedDevicesOnly) {
  const TestMemory priv = TestMemory::Private(4 * kPage);
  const IotlbEntry entry = At(0x10000, 4 * kPage, priv.at(0));
  const PushOutcome outcome = Push({}, {entry});
  if (pinned()) {
    EXPECT_TRUE(outcome.ok()) << port_->failure();
    return;
  }
  EXPECT_EQ(outcome.os_errno, EINVAL);
  EXPECT_TRUE(outcome.reverted);
  EXPECT_EQ(ReasonOf(port_->failure()), Reason::kMemoryUnsuitable);
  EXPECT_THAT(std::string(port_->failure().message()), HasSubstr("private"));
  EXPECT_EQ(RawUpdate(At(0x10000, 4 * kPage, memory_.at(0))), 0) << "the kernel was not asked";
}

TEST_F(PortTest, AHoleIsNamed) {
  auto* base = static_cast<char*>(memory_.base());
  ASSERT_EQ(munmap(base + 2 * kPage, kPage), 0);
  const PushOutcome outcome = Push({}, {At(0x10000, 4 * kPage, memory_.at(0))});
  EXPECT_EQ(outcome.os_errno, pinned() ? EFAULT : EINVAL);
  EXPECT_EQ(ReasonOf(port_->failure()), Reason::kMemoryUnsuitable) << port_->failure();
  EXPECT_THAT(DetailOf(port_->failure())->ranges,
              ElementsAre(AddressRange::Of(*HvaRange::FromSize(memory_.at(2 * kPage), kPage))));
  EXPECT_EQ(port_->mappings(Asid(0)), 0U);
}

TEST_F(PortTest, MemoryThatMayNotBeWritten) {
  ASSERT_EQ(mprotect(memory_.base(), kPage, PROT_READ), 0);
  const PushOutcome write = Push({}, {At(0x10000, kPage, memory_.at(0))});
  if (pinned()) {
    EXPECT_EQ(write.os_errno, EFAULT);
    EXPECT_EQ(ReasonOf(port_->failure()), Reason::kMemoryUnsuitable) << port_->failure();
  } else {
    EXPECT_TRUE(write.ok()) << "the device gets the file, not the mapping";
  }
  EXPECT_TRUE(Push({}, {At(0x20000, kPage, memory_.at(0), Access::kReadOnly)}).ok())
      << port_->failure();
}

TEST_F(PortTest, MemlockIsNamedWithBytes) {
  if (!pinned()) GTEST_SKIP() << "pins nothing";
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &before), 0);
  const rlimit small = {16 * kPage, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &small), 0);
  const IotlbEntry fits = At(0x10000, 12 * kPage, memory_.at(0));
  EXPECT_TRUE(Push({}, {fits}).ok()) << port_->failure();
  EXPECT_EQ(ReadMemlock()->pinned, 12 * kPage);
  // An alias counts again.
  const PushOutcome outcome = Push({}, {At(0x80000, 8 * kPage, memory_.at(0))});
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &before), 0);
  EXPECT_EQ(outcome.os_errno, EFAULT);
  EXPECT_TRUE(outcome.reverted);
  EXPECT_EQ(ReasonOf(port_->failure()), Reason::kMemlockLimit) << port_->failure();
  EXPECT_EQ(DetailOf(port_->failure())->limit, 16 * kPage);
  EXPECT_EQ(DetailOf(port_->failure())->needed, 20 * kPage);
  EXPECT_TRUE(Push({fits}, {}).ok());
  EXPECT_EQ(ReadMemlock()->pinned, 0U);
}

TEST_F(PortTest, IovaAndAddressInDifferentPlacesOfAPage) {
  const IotlbEntry entry = At(0x10000, kPage, memory_.at(512));
  const PushOutcome outcome = Push({}, {entry});
  if (pinned()) {
    EXPECT_EQ(outcome.os_errno, EINVAL);
    EXPECT_EQ(ReasonOf(port_->failure()), Reason::kUnaligned);
    return;
  }
  EXPECT_TRUE(outcome.ok()) << port_->failure();
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, kPage, 512)));
  }
}

TEST_F(PortTest, MemoryThatIsNotRegistered) {
  RegisteredAddresses registered;
  ASSERT_TRUE(registered.Add(MemoryId(1), *HvaRange::FromSize(Hva(0x7f0000000000), 4 * kPage),
                             memory_.at(0)));
  VhostVdpaPort port(*device_, registered, VhostVdpaPort::MemoryCheck::kOnRegistration);
  IotlbEntry entry = At(0x10000, kPage, Hva(0x7f0000003000));
  EXPECT_EQ(port.Update(Asid(0), entry, IotlbPort::Direction::kForward), ENXIO);
  EXPECT_EQ(ReasonOf(port.failure()), Reason::kMemoryNotRegistered);
  entry.memory = MemoryId(1);
  EXPECT_EQ(port.Update(Asid(0), entry, IotlbPort::Direction::kForward), 0);
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, kPage, 3 * kPage)));
  }
  entry = At(0x20000, 2 * kPage, Hva(0x7f0000003000));
  entry.memory = MemoryId(1);
  EXPECT_EQ(port.Update(Asid(0), entry, IotlbPort::Direction::kForward), ENXIO)
      << "leaves the registered memory";
}

TEST_F(PortTest, AddressSpacesAreApart) {
  const uint32_t spaces = device_->info().as_num;
  EXPECT_EQ(device_->Send(VHOST_IOTLB_BATCH_BEGIN, Asid(spaces)), EFAULT) << "no such space";
  if (spaces < 2) return;
  const IotlbEntry a = At(0x10000, kPage, memory_.at(0));
  ASSERT_TRUE(Push({}, {a}, Asid(0)).ok());
  ASSERT_TRUE(Push({}, {a}, Asid(1)).ok()) << port_->failure();
  ExpectHolds({a}, Asid(0));
  ExpectHolds({a}, Asid(1));
  // One batch at a time.
  ASSERT_EQ(port_->Begin(Asid(0), IotlbPort::Direction::kForward), 0);
  const IotlbEntry b = At(0x20000, kPage, memory_.at(0));
  EXPECT_EQ(device_->Send(VHOST_IOTLB_BATCH_BEGIN, Asid(1)), EFAULT);
  EXPECT_EQ(RawUpdate(b, Asid(1)), EFAULT);
  ASSERT_EQ(port_->End(Asid(0), IotlbPort::Direction::kForward), 0);
  ASSERT_EQ(port_->Clear(Asid(1)), 0);
  ExpectHolds({a}, Asid(0));
  EXPECT_EQ(port_->mappings(Asid(1)), 0U);
}

TEST_F(PortTest, EntriesAreCheckedTogether) {
  const TestMemory priv = TestMemory::Private(kPage);
  const IotlbEntry good = At(0x10000, kPage, memory_.at(0));
  EXPECT_TRUE(
      CheckEntries(*device_, addresses_, {good, At(0x20000, kPage, memory_.at(kPage))}).ok());
  const absl::Status status =
      CheckEntries(*device_, addresses_, {good, At(0x20000, kPage, priv.at(0))});
  EXPECT_EQ(ReasonOf(status), pinned() ? Reason::kUnspecified : Reason::kMemoryUnsuitable);
  if (!pinned()) {
    EXPECT_EQ(DetailOf(status)->op_index, 1U);
  }
  const absl::Status hole = CheckEntries(*device_, addresses_, {At(0x20000, kPage, Hva(0x1000))});
  EXPECT_EQ(ReasonOf(hole), Reason::kMemoryUnsuitable) << hole;
  EXPECT_EQ(DetailOf(hole)->op_index, 0U);
}

TEST_F(PortTest, ResetKeepsTheKernelsEntries) {
  const IotlbEntry a = At(0x10000, kPage, memory_.at(0));
  ASSERT_TRUE(Push({}, {a}).ok());
  ASSERT_TRUE(device_->Reset().ok());
  ExpectHolds({a});
  ASSERT_EQ(port_->Clear(Asid(0)), 0);
  EXPECT_TRUE(Push({}, {a}).ok());
}

}  // namespace
}  // namespace iovad
