// Every call of a Client and of a SpaceHandle, against a running iovad.
#include "client/client.h"

#include <sys/stat.h>

#include <atomic>
#include <thread>
#include <vector>

#include "core/error.h"
#include "gmock/gmock.h"
#include "iovad/v1/migration.pb.h"
#include "tests/client/client_fixture.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

class CallsTest : public ClientTest {};

ino_t Inode(int fd) {
  struct stat is = {};
  EXPECT_EQ(fstat(fd, &is), 0);
  return is.st_ino;
}

TEST_F(CallsTest, SpacesAreMadeListedLabelledAndDeleted) {
  const absl::StatusOr<SpaceHandle> made =
      client_->CreateSpace({.name = "vm1",
                            .iova_range = IovaRange(Iova(0), Iova(0xffffffff)),
                            .reserved = std::vector<IovaRange>{},
                            .placement = Placement::kFirstFit,
                            .max_mappings = 10,
                            .labels = {{"a", "1"}, {"b", "2"}}});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->name(), "vm1");
  const absl::StatusOr<SpaceInfo> info = made->Get();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->uid, made->uid());
  EXPECT_EQ(info->iova_range, IovaRange(Iova(0), Iova(0xffffffff)));
  EXPECT_THAT(info->reserved, IsEmpty());
  EXPECT_EQ(info->placement, Placement::kFirstFit);
  EXPECT_EQ(info->max_mappings, 10u);
  EXPECT_EQ(info->revision, Revision(1));
  EXPECT_THAT(info->labels, ElementsAre(Pair("a", "1"), Pair("b", "2")));
  EXPECT_LT(absl::AbsDuration(absl::Now() - info->create_time), absl::Hours(1));

  const auto labelled = made->UpdateLabels({{"c", "3"}}, {"a"});
  ASSERT_TRUE(labelled.ok()) << labelled.status();
  EXPECT_THAT(labelled->labels, ElementsAre(Pair("b", "2"), Pair("c", "3")));

  MakeSpace("vm2");
  const auto all = client_->ListSpaces();
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_THAT(*all, SizeIs(2));
  EXPECT_EQ(all->front().name, "vm1");

  ASSERT_TRUE(made->Map(Page(1)).ok());
  EXPECT_EQ(ReasonOf(made->DeleteSpace()), Reason::kSpaceNotEmpty);
  EXPECT_TRUE(made->DeleteSpace(SpaceHandle::Delete::kWithMappings).ok());
  EXPECT_EQ(ReasonOf(made->Get().status()), Reason::kSpaceNotFound);
}

TEST_F(CallsTest, ASpaceThatWasMadeAnewIsAnotherOne) {
  const SpaceHandle old = MakeSpace("vm1");
  ASSERT_TRUE(old.DeleteSpace().ok());
  const SpaceHandle now = MakeSpace("vm1");
  ASSERT_NE(old.uid(), now.uid());
  const absl::Status refusals[] = {
      old.Get().status(),
      old.UpdateLabels({}).status(),
      old.DeleteSpace(),
      old.Transfer("x").status(),
      old.AttachDevice({.device = "x"}).status(),
      old.DetachDevice("x").status(),
      old.RegisterMemory({.hva = HvaRange(Hva(0), Hva(kPageSize - 1)), .source = "/x"}).status(),
      old.UnregisterMemory(MemoryId(1)),
      old.ListMemory().status(),
      old.Map(Page(1)).status(),
      old.Unmap(PageGone(1)).status(),
      old.Update({}).status(),
      old.Translate({}).status(),
      old.ListMappings().status(),
      old.AllocSvqs({}).status(),
      old.FreeSvqs().status(),
      old.ListSvqs().status(),
      old.Export([](const auto&) { return absl::OkStatus(); }),
      old.Dump().status(),
      old.Resolve("gpa:0").status(),
      client_->OpenSpace("vm1", old.uid()).status(),
  };
  for (const absl::Status& refusal : refusals) {
    EXPECT_EQ(ReasonOf(refusal), Reason::kSpaceNotFound) << refusal;
    EXPECT_TRUE(absl::IsNotFound(refusal)) << refusal;
  }
  EXPECT_EQ(client_->OpenSpace("vm1")->uid(), now.uid());
  EXPECT_EQ(now.Get()->revision, Revision(1));
}

TEST_F(CallsTest, MapsUpdatesAndUnmaps) {
  const SpaceHandle space = MakeSpace("vm1");
  MapSpec spec = Page(1);
  spec.label = "ram";
  spec.access = Access::kReadOnly;
  const auto mapped = space.Map(spec);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(mapped->revision, Revision(2));
  EXPECT_EQ(mapped->value.revision(), Revision(2));
  EXPECT_EQ(mapped->value.gpa().first(), *spec.gpa);
  EXPECT_EQ(mapped->value.hva().first(), spec.hva);
  EXPECT_EQ(mapped->value.size(), spec.size);
  EXPECT_EQ(mapped->value.access(), Access::kReadOnly);
  EXPECT_EQ(mapped->value.note()->label, "ram");

  const auto updated =
      space.Update({PageGone(1), Page(2, 3), MapSpec{.hva = Hva(0x1000), .size = kPageSize},
                    UnmapSpec{.what = GpaRange(Gpa(3 * kPageSize), Gpa(4 * kPageSize - 1)),
                              .allow_split = AllowSplit::kYes}});
  ASSERT_TRUE(updated.ok()) << updated.status();
  EXPECT_EQ(updated->revision, Revision(3));
  ASSERT_THAT(updated->value, SizeIs(4));
  EXPECT_EQ(std::get<Unmapped>(updated->value[0]).removed_count, 1u);
  EXPECT_EQ(std::get<Mapping>(updated->value[1]).size(), 3 * kPageSize);
  EXPECT_FALSE(std::get<Mapping>(updated->value[2]).is_guest());
  EXPECT_THAT(std::get<Unmapped>(updated->value[3]).remainders, SizeIs(2));

  const auto all = space.ListMappings();
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->revision, Revision(3));
  EXPECT_THAT(all->value, SizeIs(3));
  EXPECT_THAT(space.ListMappings({.kind = MappingKind::kHost})->value, SizeIs(1));
  EXPECT_THAT(space.ListMappings({.iova = all->value.front().iova()})->value, SizeIs(1));

  const UnmapSpec whole = {.what = IovaRange::Whole()};
  const auto unmapped = space.Unmap(whole);
  ASSERT_TRUE(unmapped.ok()) << unmapped.status();
  EXPECT_EQ(unmapped->value.removed_bytes, 3 * kPageSize);
  EXPECT_EQ(unmapped->revision, Revision(4));
  EXPECT_EQ(ReasonOf(space.Unmap(whole).status()), Reason::kMappingNotFound);
}

TEST_F(CallsTest, ListsMoreThanAPage) {
  const SpaceHandle space = MakeSpace("vm1");
  constexpr uint64_t kMappings = 25'000;
  std::vector<Operation> operations;
  for (uint64_t i = 0; i < kMappings; ++i) operations.emplace_back(Page(2 * i));
  ASSERT_TRUE(space.Update(operations).ok());
  const auto all = space.ListMappings();
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_THAT(all->value, SizeIs(kMappings));
  for (size_t i = 1; i < all->value.size(); ++i) {
    ASSERT_LT(all->value[i - 1].iova().last(), all->value[i].iova().first());
  }
}

TEST_F(CallsTest, ErrorsCarryTheApisDetail) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto mapped = space.Map(Page(1, 2));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  const auto refused = space.Update({Page(5), Page(2)});
  EXPECT_TRUE(absl::IsAlreadyExists(refused.status())) << refused.status();
  const std::optional<ErrorDetail> detail = DetailOf(refused.status());
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason, Reason::kGpaOverlap);
  EXPECT_EQ(detail->op_index, 1u);
  ASSERT_THAT(detail->conflicts, SizeIs(1));
  EXPECT_EQ(detail->conflicts.front().id(), mapped->value.id());
  EXPECT_EQ(detail->conflicts.front().gpa(), mapped->value.gpa());
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("vm1"));

  const auto late = space.Map(Page(9), {.expected_revision = Revision(1)});
  EXPECT_EQ(ReasonOf(late.status()), Reason::kRevisionMismatch);
  EXPECT_EQ(DetailOf(late.status())->current_revision, Revision(2));
}

TEST_F(CallsTest, ChangesCanBeTriedOut) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto tried = space.Map(Page(1), {.validate_only = true});
  ASSERT_TRUE(tried.ok()) << tried.status();
  EXPECT_EQ(tried->value.id(), MappingId(0));
  EXPECT_EQ(tried->revision, Revision(1));
  EXPECT_EQ(space.Get()->mapping_count, 0u);
}

TEST_F(CallsTest, TheSameIdIsDoneOnce) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto first = space.Map(Page(1), {.request_id = "mine"});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(space.Map(Page(2)).ok());
  const auto again = space.Map(Page(1), {.request_id = "mine"});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->value.id(), first->value.id());
  EXPECT_EQ(again->revision, first->revision);
  EXPECT_EQ(ReasonOf(space.Map(Page(3), {.request_id = "mine"}).status()),
            Reason::kRequestIdReused);
}

TEST_F(CallsTest, Translates) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto mapped = space.Map(Page(1, 2));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  const Query queries[] = {
      {.address = Gpa(kPageSize + 4), .size = 8},
      {.address = Gpa(2 * kPageSize), .size = 2 * kPageSize, .access = Access::kWriteOnly},
      {.address = Hva(0x7f0000000000 + kPageSize)},
      {.address = Iova(mapped->value.iova().last()), .size = 2}};
  const auto translated = space.Translate(queries);
  ASSERT_TRUE(translated.ok()) << translated.status();
  EXPECT_EQ(translated->revision, Revision(2));
  const Translations& answers = translated->value;
  ASSERT_THAT(answers.queries, SizeIs(4));
  EXPECT_EQ(answers.segments[0].iova, Iova(mapped->value.iova().first().value() + 4));
  EXPECT_EQ(answers.segments[0].size, 8u);
  EXPECT_FALSE(answers.queries[0].fault.has_value());
  ASSERT_TRUE(answers.queries[1].fault.has_value());
  EXPECT_EQ(answers.queries[1].fault->kind, FaultKind::kMiss);
  EXPECT_EQ(answers.queries[1].fault->address, 3 * kPageSize);
  EXPECT_EQ(answers.segments[answers.queries[2].first_segment].gpa, Gpa(kPageSize));
  EXPECT_EQ(answers.queries[3].segment_count, 1u);
  EXPECT_EQ(ReasonOf(space.Translate({Query{.size = 0}}).status()), Reason::kEmptyRange);
}

TEST_F(CallsTest, RegistersMemoryFromADescriptorInOneCall) {
  const SpaceHandle space = MakeSpace("vm1");
  const UniqueFd file = SealedMemory(16 * kPageSize);
  const HvaRange where = *HvaRange::FromSize(Hva(0x7f0000000000), 8 * kPageSize);
  const auto memory = space.RegisterMemory(
      {.hva = where, .source = file.get(), .offset = kPageSize, .label = "ram"});
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->hva, where);
  EXPECT_EQ(memory->offset, kPageSize);
  EXPECT_EQ(memory->label, "ram");
  EXPECT_EQ(memory->state, MemoryInfo::State::kReady);

  const auto mapped = space.Map(Page(1));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(mapped->value.memory(), memory->id);
  const auto all = space.ListMemory();
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_THAT(*all, SizeIs(1));
  EXPECT_EQ(all->front().mapping_count, 1u);

  const auto got = space.GetMemoryFd(memory->id);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(Inode(got->get()), Inode(file.get()));
  EXPECT_EQ(ReasonOf(space.UnregisterMemory(memory->id)), Reason::kInUse);
  ASSERT_TRUE(space.Unmap(PageGone(1)).ok());
  EXPECT_TRUE(space.UnregisterMemory(memory->id).ok());
  EXPECT_EQ(ReasonOf(space.GetMemoryFd(memory->id).status()), Reason::kMemoryNotFound);

  const UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(ReasonOf(space.RegisterMemory({.hva = where, .source = unsealed.get()}).status()),
            Reason::kMemoryUnsuitable);
  EXPECT_EQ(ReasonOf(space.RegisterMemory({.hva = where, .source = "/etc/passwd"}).status()),
            Reason::kPathNotAllowed);
}

TEST_F(CallsTest, ShadowVirtqueues) {
  const SpaceHandle space = MakeSpace("vm1");
  const SvqSpec specs[] = {
      {.queue_index = 0, .queue_size = 256},
      {.queue_index = 2, .queue_size = 64, .format = RingFormat::kPacked, .control = true}};
  const auto made = space.AllocSvqs(specs);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_THAT(made->value, SizeIs(2));
  EXPECT_EQ(made->value[0].queue_size, 256u);
  EXPECT_NE(made->value[0].memory, MemoryId(0));
  EXPECT_FALSE(made->value[0].control_out.has_value());
  EXPECT_TRUE(made->value[1].control_in.has_value());
  EXPECT_EQ(made->value[1].format, RingFormat::kPacked);
  const auto memory = space.GetMemoryFd(made->value[0].memory);
  EXPECT_TRUE(memory.ok()) << memory.status();

  EXPECT_THAT(space.ListSvqs()->value, SizeIs(2));
  const auto freed = space.FreeSvqs({made->value[0].id});
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_GT(freed->value.removed_count, 0u);
  EXPECT_THAT(space.ListSvqs()->value, SizeIs(1));
  EXPECT_TRUE(space.FreeSvqs().ok());
  EXPECT_THAT(space.ListSvqs()->value, IsEmpty());
}

TEST_F(CallsTest, DevicesAreOpenedAttachedAndLookedAt) {
  const auto opened = client_->OpenDevice("sim0", SimulatedDeviceSpec{.as_num = 2});
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->backend, DeviceInfo::Backend::kSimulated);
  EXPECT_EQ(opened->as_num, 2u);
  EXPECT_THAT(*client_->ListDevices(), SizeIs(1));
  const SpaceHandle space = MakeSpace("vm1");
  const auto attached = space.AttachDevice({.device = "sim0", .asid = Asid(1)});
  ASSERT_TRUE(attached.ok()) << attached.status();
  ASSERT_THAT(attached->attachments, SizeIs(1));
  EXPECT_EQ(attached->attachments[0].state, AttachmentInfo::State::kLive);
  EXPECT_EQ(attached->attachments[0].asid, Asid(1));
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const auto device = client_->GetDevice("sim0");
  ASSERT_TRUE(device.ok()) << device.status();
  ASSERT_THAT(device->attachments, SizeIs(1));
  EXPECT_EQ(device->attachments[0].entries, 1u);

  const auto log = client_->DeviceLog("sim0", 3);
  ASSERT_TRUE(log.ok()) << log.status();
  ASSERT_THAT(log->entries, SizeIs(3));
  EXPECT_EQ(log->entries[1].type, DeviceLogEntry::Type::kUpdate);
  EXPECT_EQ(log->entries[1].access, Access::kReadWrite);
  EXPECT_EQ(ReasonOf(client_->EstimateMemlock("sim0", "vm1").status()),
            Reason::kNoDeviceCapability);
  EXPECT_TRUE(client_->ResetDevice("sim0").ok());
  EXPECT_EQ(ReasonOf(client_->CloseDevice("sim0")), Reason::kInUse);
  EXPECT_EQ(ReasonOf(client_->StartDevice("sim0", 0, {}).status()), Reason::kNoDeviceCapability);
  EXPECT_EQ(ReasonOf(client_->StopDevice("sim0").status()), Reason::kNoDeviceCapability);
  EXPECT_FALSE(client_->ReadDeviceConfig("sim0", 0, 4).ok());
  EXPECT_FALSE(client_->WriteDeviceConfig("sim0", 0, "x").ok());
  ASSERT_TRUE(space.DetachDevice("sim0", Asid(1)).ok());
  EXPECT_TRUE(client_->CloseDevice("sim0").ok());
  EXPECT_EQ(ReasonOf(client_->GetDevice("sim0").status()), Reason::kDeviceNotFound);
  EXPECT_EQ(ReasonOf(client_->OpenDevice("d", "/no/such/device").status()),
            Reason::kDeviceNotFound);
}

TEST_F(CallsTest, TheServerTellsOfItself) {
  const auto info = client_->GetServerInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->store, "ephemeral");
  EXPECT_GT(info->limits.at("max_spaces"), 0u);
  EXPECT_THAT(*client_->Stats(), Not(IsEmpty()));
  const auto owner = client_->AttestProcess();
  ASSERT_TRUE(owner.ok()) << owner.status();
  EXPECT_THAT(*owner, SizeIs(32));

  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  EXPECT_THAT(*space.Dump(), HasSubstr("vm1"));
  const auto resolved = space.Resolve("gpa:0x1000", 16);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  ASSERT_THAT(resolved->pieces, SizeIs(1));
  EXPECT_EQ(resolved->pieces[0].mapping.size(), kPageSize);
}

TEST_F(CallsTest, ASpaceBelongsToThisProcess) {
  const auto space = client_->CreateSpace(
      {.name = "vm1", .lifetime = Lifetime::kOwnerProcess, .grace = absl::Seconds(7)});
  ASSERT_TRUE(space.ok()) << space.status();
  const SpaceInfo info = *space->Get();
  EXPECT_EQ(info.lifetime, Lifetime::kOwnerProcess);
  EXPECT_EQ(info.grace, absl::Seconds(7));
  ASSERT_TRUE(info.owner_process.has_value());
  EXPECT_EQ(info.owner_process->pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(info.owner_process->uid, getuid());
  EXPECT_FALSE(info.owner_gone_time.has_value());
  EXPECT_FALSE(info.remove_time.has_value());
}

TEST_F(CallsTest, ASpaceIsGivenToTheProcessOfAHandle) {
  const SpaceHandle space = MakeSpace("vm1");
  EXPECT_FALSE(space.Get()->owner_process.has_value());
  EXPECT_EQ(ReasonOf(space.Transfer(std::string(32, '0')).status()), Reason::kHandleNotFound);
  // Without a handle, this process takes it over.
  const auto taken = space.Transfer();
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->owner_process->pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(taken->lifetime, Lifetime::kPermanent);

  const auto handle = client_->AttestProcess();
  ASSERT_TRUE(handle.ok()) << handle.status();
  const auto other = client_->CreateSpace({.name = "vm2", .owner_handle = *handle});
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->Get()->owner_process->pid, static_cast<uint32_t>(getpid()));
  // It works once.
  EXPECT_EQ(ReasonOf(other->Transfer(*handle).status()), Reason::kHandleNotFound);
}

TEST_F(CallsTest, AStreamOfUpdatesAnswersInOrderAndGoesOnAfterAnError) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto stream = space.StreamUpdates();
  for (const uint64_t page : {1, 1, 2}) {
    ASSERT_TRUE(stream->Send(page, {Page(page)}));
  }
  stream->SendsDone();
  auto answer = stream->Receive();
  ASSERT_TRUE(answer.has_value());
  ASSERT_TRUE(answer->result.ok()) << answer->result.status();
  EXPECT_EQ(answer->result->revision, Revision(2));
  EXPECT_EQ(std::get<Mapping>(answer->result->value[0]).size(), kPageSize);
  answer = stream->Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(ReasonOf(answer->result.status()), Reason::kMappingExists);
  answer = stream->Receive();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->sequence, 2u);
  EXPECT_TRUE(answer->result.ok());
  EXPECT_FALSE(stream->Receive().has_value());
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(CallsTest, ChangesAreWatched) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto first = space.Map(Page(1));
  ASSERT_TRUE(first.ok()) << first.status();
  const auto stream = space.Watch();
  SpaceChange change;
  ASSERT_TRUE(stream->Read(change));
  EXPECT_TRUE(change.snapshot_end);
  ASSERT_THAT(change.mappings, SizeIs(1));
  EXPECT_EQ(change.mappings[0].mapping.id(), first->value.id());
  ASSERT_TRUE(space.Update({PageGone(1), Page(2)}).ok());
  ASSERT_TRUE(stream->Read(change));
  EXPECT_EQ(change.revision, Revision(3));
  ASSERT_THAT(change.mappings, SizeIs(2));
  EXPECT_EQ(change.mappings[0].kind, MappingChange::Kind::kUnmapped);
  ASSERT_TRUE(space.AllocSvqs({SvqSpec{.queue_size = 8}}).ok());
  ASSERT_TRUE(stream->Read(change));
  EXPECT_THAT(change.svqs_allocated, SizeIs(1));
  std::thread other([&] { stream->Cancel(); });
  EXPECT_FALSE(stream->Read(change));
  other.join();
  EXPECT_TRUE(absl::IsCancelled(stream->Finish()));

  const auto compacted = space.Watch(Revision(1));
  EXPECT_FALSE(compacted->Read(change));
  const absl::Status why = compacted->Finish();
  EXPECT_EQ(ReasonOf(why), Reason::kRevisionCompacted) << why;
  EXPECT_EQ(DetailOf(why)->compact_revision, Revision(2));
}

TEST_F(CallsTest, SpacesAreWatched) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto stream = client_->WatchSpaces();
  SpacesEvent event;
  ASSERT_TRUE(stream->Read(event));
  EXPECT_EQ(event.kind, SpacesEvent::Kind::kCreated);
  EXPECT_EQ(event.space.name, "vm1");
  ASSERT_TRUE(stream->Read(event));
  EXPECT_EQ(event.kind, SpacesEvent::Kind::kSnapshotEnd);
  ASSERT_TRUE(space.DeleteSpace().ok());
  do {
    ASSERT_TRUE(stream->Read(event));
  } while (event.kind != SpacesEvent::Kind::kDeleted);
  EXPECT_EQ(event.space.uid, space.uid());
  stream->Cancel();
  while (stream->Read(event)) {
  }
  EXPECT_TRUE(absl::IsCancelled(stream->Finish()));
}

TEST_F(CallsTest, ASpaceIsExportedAndImported) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(0, 4)).ok());
  ASSERT_TRUE(space.Map({.hva = Hva(0x5000), .size = kPageSize, .label = "mine"}).ok());
  ASSERT_TRUE(space.AllocSvqs({SvqSpec{.queue_size = 8}}).ok());
  std::vector<std::string> blocks;
  const absl::Status exported = space.Export([&](const v1::ExportSpaceResponse& block) {
    blocks.push_back(block.SerializeAsString());
    return absl::OkStatus();
  });
  ASSERT_TRUE(exported.ok()) << exported;
  EXPECT_EQ(space.Export([](const auto&) { return absl::DataLossError("full"); }),
            absl::DataLossError("full"));

  size_t given = 0;
  const auto next = [&](v1::ExportSpaceResponse& block) -> absl::StatusOr<bool> {
    if (given == blocks.size()) return false;
    return block.ParseFromString(blocks[given++]);
  };
  const UniqueFd file = SealedMemory(4 * kPageSize);
  const ImportSpec spec = {.name = "vm2",
                           .bindings = {{.gpa = GpaRange(Gpa(0), Gpa(4 * kPageSize - 1)),
                                         .hva = Hva(0x100000),
                                         .memory = MemoryId(1)}},
                           .memories = {{.hva = *HvaRange::FromSize(Hva(0x100000), 4 * kPageSize),
                                         .source = file.get()}},
                           .labels = {{"moved", "yes"}}};
  uint64_t mapped = 0;
  const auto imported = client_->Import(
      spec, next, [&](const ImportProgress& progress) { mapped = progress.mapped_bytes; });
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->space.name(), "vm2");
  EXPECT_THAT(imported->svqs, SizeIs(1));
  EXPECT_EQ(imported->skipped_count, 1u);
  ASSERT_THAT(imported->skipped, SizeIs(1));
  EXPECT_EQ(imported->skipped[0].label, "mine");
  const auto guest = imported->space.ListMappings({.kind = MappingKind::kGuest});
  ASSERT_TRUE(guest.ok()) << guest.status();
  ASSERT_THAT(guest->value, SizeIs(1));
  EXPECT_EQ(guest->value[0].hva().first(), Hva(0x100000));
  EXPECT_EQ(guest->value[0].memory(), MemoryId(1));
  EXPECT_EQ(imported->space.Get()->labels.at("moved"), "yes");

  given = 0;
  EXPECT_EQ(ReasonOf(client_->Import({.name = "vm3"}, next).status()), Reason::kUnboundMemory);
  given = 0;
  const auto broken = client_->Import({.name = "vm3"}, [&](v1::ExportSpaceResponse&) {
    return absl::StatusOr<bool>(absl::AbortedError("disk"));
  });
  EXPECT_EQ(broken.status(), absl::AbortedError("disk"));
  EXPECT_EQ(ReasonOf(client_->OpenSpace("vm3").status()), Reason::kSpaceNotFound);
}

TEST_F(CallsTest, ManyThreadsShareOneClient) {
  const SpaceHandle space = MakeSpace("vm1");
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kPages = 50;
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const Client copy = *client_;
      for (uint64_t i = 0; i < kPages; ++i) {
        if (!space.Map(Page(t * kPages + i)).ok()) ++failures;
        if (!copy.OpenSpace("vm1").ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(space.Get()->mapping_count, kThreads * kPages);
}

TEST_F(CallsTest, WhatCameFromAClientOutlivesIt) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto stream = space.Watch();
  client_.reset();
  EXPECT_TRUE(space.Map(Page(1)).ok());
  SpaceChange change;
  EXPECT_TRUE(stream->Read(change));
  stream->Cancel();
  while (stream->Read(change)) {
  }
  EXPECT_TRUE(absl::IsCancelled(stream->Finish()));
}

TEST(ConnectTest, RefusesWhatIsNoAddress) {
  for (const char* address : {"", "10.0.0.1:7000"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect(address).status())) << address;
  }
}

}  // namespace
}  // namespace iovad
