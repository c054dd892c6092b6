#include "client/mirror/mirror_table.h"

#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "client/mirror/left_right.h"
#include "core/address_space.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::client {
namespace {

using ::testing::SizeIs;

constexpr uint64_t kPage = 4096;

Mapping Guest(uint64_t id, uint64_t page, uint64_t pages = 1, uint64_t revision = 1) {
  return Mapping(MappingId(id), *IovaRange::FromSize(Iova(page * kPage), pages * kPage),
                 Gpa(page * kPage), Hva(0x10000000 + page * kPage), Access::kReadWrite,
                 Revision(revision));
}

MappingChange Mapped(Mapping mapping) {
  return {.kind = MappingChange::Kind::kMapped, .mapping = std::move(mapping)};
}
MappingChange Unmapped(Mapping mapping) {
  return {.kind = MappingChange::Kind::kUnmapped, .mapping = std::move(mapping)};
}

size_t Count(const MirrorTable& table) {
  return table.Read([](const MirrorView& view) { return view.mapping_count(); });
}
Revision RevisionOf(const MirrorTable& table) {
  return table.Read([](const MirrorView& view) { return view.revision(); });
}

TEST(MirrorTableTest, HoldsNothingAtFirst) {
  const MirrorTable table;
  EXPECT_EQ(Count(table), 0u);
  EXPECT_EQ(RevisionOf(table), Revision(0));
  Segment segment;
  const Translated miss = table.Read([&](const MirrorView& view) {
    return view.Translate({.address = Gpa(5)}, absl::MakeSpan(&segment, 1));
  });
  ASSERT_TRUE(miss.fault.has_value());
  EXPECT_EQ(miss.fault->kind, FaultKind::kMiss);
  EXPECT_EQ(miss.fault->address, 5u);
}

TEST(MirrorTableTest, EachRevisionIsReadWhereItWasMade) {
  MirrorTable table;
  ASSERT_TRUE(table.Replace("uid", Revision(3), {Guest(1, 0), Guest(2, 1)}).ok());
  EXPECT_EQ(Count(table), 2u);
  // Every other one is made in the other copy, which has to get the one before first.
  for (uint64_t i = 0; i < 6; ++i) {
    ASSERT_TRUE(table.Apply(Revision(4 + i), {Mapped(Guest(3 + i, 2 + i))}).ok());
    EXPECT_EQ(Count(table), 3 + i);
    EXPECT_EQ(RevisionOf(table), Revision(4 + i));
  }
  ASSERT_TRUE(table.Apply(Revision(10), {Unmapped(Guest(1, 0)), Mapped(Guest(9, 0))}).ok());
  table.Read([](const MirrorView& view) {
    EXPECT_EQ(view.space_uid(), "uid");
    EXPECT_EQ(view.FindByGpa(Gpa(0))->id(), MappingId(9));
    EXPECT_EQ(view.FindByIova(Iova(kPage))->id(), MappingId(2));
    EXPECT_EQ(view.FindById(MappingId(1)), nullptr);
    EXPECT_EQ(view.FindBestByHva(HvaRange(Hva(0x10000000), Hva(0x10000000)), {}).covering, 1u);
    size_t listed = 0;
    view.ForEach(IovaRange::Whole(), [&](const Mapping&) { return ++listed < 100; });
    EXPECT_EQ(listed, 8u);
  });
  table.Clear();
  EXPECT_EQ(Count(table), 0u);
  EXPECT_EQ(RevisionOf(table), Revision(0));
}

TEST(MirrorTableTest, TranslatesIntoAsManySegmentsAsThereIsRoomFor) {
  MirrorTable table;
  std::vector<Mapping> mappings;
  for (uint64_t i = 0; i < 4; ++i) mappings.push_back(Guest(i + 1, i));
  ASSERT_TRUE(table.Replace("uid", Revision(1), mappings).ok());
  table.Read([](const MirrorView& view) {
    Segment segments[8];
    const Query query = {.address = Gpa(10), .size = 4 * kPage};
    const Translated all = view.Translate(query, absl::MakeSpan(segments));
    EXPECT_EQ(all.segment_count, 4u);
    EXPECT_EQ(all.done, 4 * kPage - 10);
    ASSERT_TRUE(all.fault.has_value());
    EXPECT_EQ(all.fault->address, 4 * kPage);
    EXPECT_EQ(segments[3].iova, Iova(3 * kPage));
    EXPECT_EQ(segments[0].size, kPage - 10);

    const Translated some = view.Translate(query, absl::MakeSpan(segments, 2));
    EXPECT_EQ(some.segment_count, 2u);
    EXPECT_FALSE(some.fault.has_value());
    EXPECT_EQ(some.done, 2 * kPage - 10);

    for (const Query& wrong :
         {Query{.address = Gpa(7), .size = 0}, Query{.address = Gpa(7), .size = kMaxAddress}}) {
      const Translated refused = view.Translate(wrong, absl::MakeSpan(segments));
      EXPECT_EQ(refused.segment_count, 0u);
      ASSERT_TRUE(refused.fault.has_value());
      EXPECT_EQ(refused.fault->address, 7u);
      EXPECT_TRUE(absl::IsInvalidArgument(view.Translate({&wrong, 1}).status()));
    }
  });
}

// What a server says may be anything. It must neither harm the tables nor be believed.
TEST(MirrorTableTest, WhatDoesNotFitIsRefusedUntilTheTableIsFilledAnew) {
  const Mapping host(MappingId(5), *IovaRange::FromSize(Iova(100 * kPage), kPage), std::nullopt,
                     Hva(0x5000), Access::kReadWrite, Revision(1));
  const Mapping same_host(MappingId(6), *IovaRange::FromSize(Iova(101 * kPage), kPage),
                          std::nullopt, Hva(0x5000), Access::kReadWrite, Revision(1));
  const Mapping same_gpa(MappingId(6), *IovaRange::FromSize(Iova(101 * kPage), kPage), Gpa(0),
                         Hva(0), Access::kReadWrite, Revision(1));
  const MappingChange misfits[] = {
      Mapped(Guest(1, 50)), Mapped(Guest(6, 0)), Mapped(Guest(6, 1, 4)),
      Mapped(same_gpa),     Mapped(same_host),   Unmapped(Guest(9, 0)),
  };
  const std::vector<Mapping> good = {Guest(1, 0), Guest(2, 2), host};
  for (const MappingChange& misfit : misfits) {
    MirrorTable table;
    ASSERT_TRUE(table.Replace("uid", Revision(1), good).ok());
    EXPECT_TRUE(absl::IsDataLoss(table.Apply(Revision(2), {Mapped(Guest(8, 30)), misfit})));
    EXPECT_EQ(RevisionOf(table), Revision(1));
    EXPECT_EQ(Count(table), 3u);
    EXPECT_TRUE(absl::IsDataLoss(table.Apply(Revision(2), {})));
    ASSERT_TRUE(table.Replace("uid", Revision(2), good).ok());
    EXPECT_TRUE(table.Apply(Revision(3), {Mapped(Guest(8, 30))}).ok());
    EXPECT_EQ(Count(table), 4u);
  }
  MirrorTable table;
  ASSERT_TRUE(table.Replace("uid", Revision(1), good).ok());
  EXPECT_TRUE(absl::IsDataLoss(table.Replace("uid", Revision(9), {Guest(1, 0), Guest(2, 0)})));
  EXPECT_EQ(RevisionOf(table), Revision(1));
  EXPECT_TRUE(table.Apply(Revision(2), {Mapped(Guest(8, 30))}).ok());
}

// ---- Against a space of the core, with random changes and queries.

class RandomSpace {
 public:
  explicit RandomSpace(unsigned seed) : random_(seed) {}

  uint64_t Below(uint64_t limit) { return random_() % limit; }

  Operation RandomOperation() {
    const uint64_t kind = Below(10);
    const auto pages = [this] { return 1 + Below(8); };
    if (kind < 5) {
      return MapSpec{.gpa = Gpa(Below(400) * kPage),
                     .hva = Hva(0x100000 + Below(200) * kPage),
                     .size = pages() * kPage,
                     .access = static_cast<Access>(1 + Below(3)),
                     .label = Below(4) == 0 ? "label" : ""};
    }
    if (kind == 5) return MapSpec{.hva = Hva(0x100000 + Below(400) * kPage), .size = kPage};
    const AllowSplit split{Below(2) == 0};
    const uint64_t first = Below(400) * kPage;
    const uint64_t last = first + pages() * kPage - 1;
    if (kind < 8) return UnmapSpec{.what = GpaRange(Gpa(first), Gpa(last)), .allow_split = split};
    if (kind == 8) {
      return UnmapSpec{.what = IovaRange(Iova(first), Iova(last)), .allow_split = split};
    }
    return UnmapSpec{.what = HvaRange(Hva(0x100000 + first), Hva(0x100000 + last))};
  }

  Query RandomQuery() {
    Query query;
    const uint64_t at = Below(420 * kPage);
    switch (Below(3)) {
      case 0:
        query.address = Gpa(at);
        break;
      case 1:
        query.address = Hva(0x100000 + at);
        break;
      default:
        query.address = Iova(at);
    }
    query.size = 1 + Below(6 * kPage);
    if (Below(2) == 0) query.access = static_cast<Access>(1 + Below(3));
    return query;
  }

 private:
  std::mt19937_64 random_;
};

void ExpectSame(const Segment& a, const Segment& b) {
  EXPECT_EQ(a.iova, b.iova);
  EXPECT_EQ(a.hva, b.hva);
  EXPECT_EQ(a.gpa, b.gpa);
  EXPECT_EQ(a.size, b.size);
  EXPECT_EQ(a.mapping_id, b.mapping_id);
  EXPECT_EQ(a.access, b.access);
}

void ExpectSameFault(const std::optional<Fault>& a, const std::optional<Fault>& b) {
  ASSERT_EQ(a.has_value(), b.has_value());
  if (!a.has_value()) return;
  EXPECT_EQ(a->kind, b->kind);
  EXPECT_EQ(a->address, b->address);
}

void ExpectSameAnswers(const AddressSpace& space, const MirrorTable& table, RandomSpace& random) {
  std::vector<Query> queries(40);
  for (Query& query : queries) query = random.RandomQuery();
  const absl::StatusOr<Translations> expected = space.Translate(queries, 1 << 20);
  ASSERT_TRUE(expected.ok()) << expected.status();
  table.Read([&](const MirrorView& view) {
    EXPECT_EQ(view.revision(), space.revision());
    const absl::StatusOr<Translations> got = view.Translate(queries);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_THAT(got->segments, SizeIs(expected->segments.size()));
    for (size_t i = 0; i < got->segments.size(); ++i) {
      ExpectSame(got->segments[i], expected->segments[i]);
    }
    for (size_t i = 0; i < queries.size(); ++i) {
      const Translation& want = expected->queries[i];
      EXPECT_EQ(got->queries[i].alias_count, want.alias_count);
      EXPECT_EQ(got->queries[i].segment_count, want.segment_count);
      ExpectSameFault(got->queries[i].fault, want.fault);
      Segment segments[64];
      const Translated one = view.Translate(queries[i], absl::MakeSpan(segments));
      ASSERT_EQ(one.segment_count, want.segment_count);
      ExpectSameFault(one.fault, want.fault);
      for (size_t s = 0; s < one.segment_count; ++s) {
        ExpectSame(segments[s], expected->segments[want.first_segment + s]);
      }
    }
  });
}

std::vector<Mapping> AllOf(const AddressSpace& space) {
  std::vector<Mapping> all;
  space.ListAt(space.revision(), Iova(0), [&](const Mapping& m) {
    all.push_back(m);
    return true;
  });
  return all;
}

TEST(MirrorTableTest, AnswersAsTheSpaceThatItFollows) {
  const char* const given = std::getenv("IOVAD_TEST_SEED");
  const unsigned seed =
      given != nullptr ? static_cast<unsigned>(std::atoi(given)) : std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  const char* const scale = std::getenv("IOVAD_TEST_OPS");
  const int rounds = static_cast<int>(30'000 * (scale != nullptr ? std::atof(scale) : 1));
  RandomSpace random(seed);
  AddressSpace space({.name = "vm1", .range = IovaRange(Iova(0), Iova(420 * kPage - 1))});
  MirrorTable table;
  ASSERT_TRUE(table.Replace("uid", space.revision(), {}).ok());
  int changed = 0;
  for (int i = 0; i < rounds; ++i) {
    std::vector<Operation> operations;
    for (uint64_t n = 1 + random.Below(4); n > 0; --n) {
      operations.push_back(random.RandomOperation());
    }
    const auto planned = space.Update(operations);
    if (!planned.ok() || !planned->changed) continue;
    const std::vector<AddressSpace::StepEffect> steps = space.StepEffects();
    ASSERT_THAT(steps, SizeIs(1));
    space.Commit();
    ++changed;
    if (random.Below(50) == 0) {
      ASSERT_TRUE(table.Replace("uid", space.revision(), AllOf(space)).ok());
    } else {
      const absl::Status applied = table.Apply(steps[0].revision, steps[0].mappings);
      ASSERT_TRUE(applied.ok()) << applied;
    }
    ASSERT_EQ(Count(table), space.mapping_count());
    if (i % 4 == 0) ExpectSameAnswers(space, table, random);
    if (HasFailure()) return;
  }
  EXPECT_GT(changed, rounds / 20);
}

// ---- With readers on other threads; what ThreadSanitizer is for.

TEST(LeftRightTest, ReadersSeeWholeStates) {
  struct Two {
    uint64_t a = 0;
    uint64_t b = 0;
  };
  LeftRight<Two> both;
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> torn = 0;
  std::vector<std::thread> readers;
  readers.reserve(3);
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      uint64_t last = 0;
      while (!stop) {
        const LeftRight<Two>::Reading now(both);
        if (now->a != now->b || now->a < last) ++torn;
        last = now->a;
      }
    });
  }
  for (uint64_t i = 1; i <= 20'000; ++i) {
    Two& idle = both.Idle();
    idle.a = i;
    idle.b = i;
    both.Publish();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(torn, 0u);
  EXPECT_EQ(LeftRight<Two>::Reading(both)->a, 20'000u);
}

// Every revision moves all pages to HVAs that say which revision it is.
TEST(MirrorTableTest, ReadersSeeOneRevisionAtATime) {
  constexpr uint64_t kPages = 16;
  constexpr uint64_t kRevisions = 500;
  const auto page_of = [](uint64_t revision, uint64_t page) {
    return Mapping(MappingId(revision * kPages + page),
                   *IovaRange::FromSize(Iova(page * kPage), kPage), Gpa(page * kPage),
                   Hva(revision << 32 | page * kPage), Access::kReadWrite, Revision(revision));
  };
  const auto all_of = [&](uint64_t revision) {
    std::vector<Mapping> all;
    for (uint64_t page = 0; page < kPages; ++page) all.push_back(page_of(revision, page));
    return all;
  };
  MirrorTable table;
  ASSERT_TRUE(table.Replace("uid", Revision(1), all_of(1)).ok());
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> wrong = 0;
  std::vector<std::thread> readers;
  readers.reserve(2);
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      uint64_t last = 0;
      while (!stop) {
        table.Read([&](const MirrorView& view) {
          const uint64_t revision = view.revision().value();
          if (revision < last) ++wrong;
          last = revision;
          Segment segments[kPages];
          const Translated t =
              view.Translate({.address = Gpa(0), .size = kPages * kPage}, absl::MakeSpan(segments));
          if (t.segment_count != kPages) ++wrong;
          for (size_t s = 0; s < t.segment_count; ++s) {
            if (segments[s].hva.value() >> 32 != revision) ++wrong;
          }
        });
      }
    });
  }
  for (uint64_t revision = 2; revision <= kRevisions; ++revision) {
    if (revision % 100 == 0) {
      ASSERT_TRUE(table.Replace("uid", Revision(revision), all_of(revision)).ok());
      continue;
    }
    std::vector<MappingChange> changes;
    for (uint64_t page = 0; page < kPages; ++page) {
      changes.push_back(Unmapped(page_of(revision - 1, page)));
      changes.push_back(Mapped(page_of(revision, page)));
    }
    const absl::Status applied = table.Apply(Revision(revision), std::move(changes));
    ASSERT_TRUE(applied.ok()) << applied;
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace iovad::client
