#include "absl/time/clock.h"
#include "client/backoff.h"
#include "client/convert.h"
#include "client/error.h"
#include "core/error.h"
#include "gtest/gtest.h"

namespace iovad::client {
namespace {

v1::Mapping Good() {
  v1::Mapping m;
  m.set_mapping_id(7);
  m.set_iova(0x1000);
  m.set_size(0x2000);
  m.set_gpa(0x5000);
  m.set_hva(0x7f0000000000);
  m.set_access(v1::ACCESS_READ_ONLY);
  m.set_kind(v1::MAPPING_KIND_GUEST);
  m.set_revision(3);
  return m;
}

TEST(ConvertTest, AMappingIsReadWhole) {
  v1::Mapping m = Good();
  Mapping out;
  ASSERT_TRUE(Read(m, out));
  EXPECT_EQ(out.id(), MappingId(7));
  EXPECT_EQ(out.iova(), IovaRange(Iova(0x1000), Iova(0x2fff)));
  EXPECT_EQ(out.gpa().first(), Gpa(0x5000));
  EXPECT_EQ(out.hva().first(), Hva(0x7f0000000000));
  EXPECT_EQ(out.access(), Access::kReadOnly);
  EXPECT_EQ(out.revision(), Revision(3));
  EXPECT_FALSE(out.note());

  m.clear_gpa();
  m.set_label("ring");
  m.set_svq_id(4);
  m.set_memory_id(5);
  ASSERT_TRUE(Read(m, out));
  EXPECT_FALSE(out.is_guest());
  EXPECT_EQ(out.note()->label, "ring");
  EXPECT_EQ(out.svq(), SvqId(4));
  EXPECT_EQ(out.memory(), MemoryId(5));
}

TEST(ConvertTest, AMappingThatCannotBeIsRefused) {
  Mapping out;
  void (*const spoil[])(v1::Mapping&) = {
      [](v1::Mapping& m) { m.set_size(0); },
      [](v1::Mapping& m) { m.set_iova(kMaxAddress); },
      [](v1::Mapping& m) { m.set_hva(kMaxAddress - 0x1000); },
      [](v1::Mapping& m) { m.set_gpa(kMaxAddress - 0x1000); },
      [](v1::Mapping& m) { m.set_access(v1::ACCESS_UNSPECIFIED); },
      [](v1::Mapping& m) { m.set_access(static_cast<v1::Access>(4)); },
  };
  for (const auto& f : spoil) {
    v1::Mapping m = Good();
    f(m);
    EXPECT_FALSE(Read(m, out)) << m.ShortDebugString();
  }
}

TEST(ConvertTest, AnswersThatCannotBeAreRefused) {
  v1::Range range;
  range.set_first(2);
  range.set_last(1);
  IovaRange iova = IovaRange::Whole();
  EXPECT_FALSE(Read(range, iova));

  v1::OpResult nothing;
  OperationResult result;
  EXPECT_FALSE(Read(nothing, result));

  v1::TranslateResponse translated;
  translated.add_translations()->mutable_fault();
  Translations translations;
  EXPECT_FALSE(Read(translated, translations));

  v1::WatchResponse news;
  news.add_events()->mutable_mapped();
  SpaceChange change;
  EXPECT_FALSE(Read(news, change));

  SpacesEvent event;
  EXPECT_FALSE(Read(v1::WatchSpacesResponse(), event));
}

// A server may be newer than its client.
TEST(ConvertTest, WhatIsNotKnownYetIsPassedOver) {
  v1::WatchResponse news;
  news.set_revision(4);
  news.add_events();
  SpaceChange change;
  ASSERT_TRUE(Read(news, change));
  EXPECT_EQ(change.revision, Revision(4));
  EXPECT_TRUE(change.mappings.empty());

  v1::Attachment attachment;
  attachment.set_state(static_cast<v1::AttachmentState>(99));
  AttachmentInfo info;
  ASSERT_TRUE(Read(attachment, info));
  EXPECT_EQ(info.state, AttachmentInfo::State::kLive);
}

TEST(ConvertTest, DurationsKeepTheirNanoseconds) {
  google::protobuf::Duration out;
  Write(absl::Seconds(3) + absl::Nanoseconds(7), out);
  EXPECT_EQ(out.seconds(), 3);
  EXPECT_EQ(out.nanos(), 7);
}

TEST(ConvertTest, ErrorsBecomeTheCores) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_GPA_OVERLAP);
  detail.set_op_index(3);
  *detail.add_conflicts() = Good();
  detail.add_conflicts();  // is none, and left out
  detail.add_ranges()->set_last(9);
  const absl::Status status =
      ToCore(client::WithDetail(absl::AlreadyExistsError("it overlaps"), detail));
  EXPECT_TRUE(absl::IsAlreadyExists(status));
  EXPECT_EQ(status.message(), "it overlaps");
  const std::optional<ErrorDetail> core = iovad::DetailOf(status);
  ASSERT_TRUE(core.has_value());
  EXPECT_EQ(core->reason, Reason::kGpaOverlap);
  EXPECT_EQ(core->op_index, 3u);
  ASSERT_EQ(core->conflicts.size(), 1u);
  EXPECT_EQ(core->conflicts[0].id(), MappingId(7));
  EXPECT_EQ(core->ranges, (std::vector<AddressRange>{{0, 9}}));

  EXPECT_EQ(ToCore(absl::CancelledError("x")), absl::CancelledError("x"));
  EXPECT_TRUE(ToCore(absl::OkStatus()).ok());
}

TEST(BackoffTest, PausesDoubleUpToTheLongest) {
  Backoff backoff(absl::Milliseconds(8), absl::Milliseconds(100));
  for (const int middle : {8, 16, 32, 64, 100, 100}) {
    const absl::Duration pause = backoff.Next();
    EXPECT_GE(pause, absl::Milliseconds(middle) / 2);
    EXPECT_LE(pause, absl::Milliseconds(middle) * 1.5);
  }
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(12));
  EXPECT_FALSE(backoff.Pause(absl::Now()));
}

}  // namespace
}  // namespace iovad::client
