// The check of an export's records: whatever is done to them is found, and nothing
// that was not.
#include "server/import_records.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/page.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/call.h"
#include "server/config.h"
#include "server/registry.h"
#include "server/space_export.h"

namespace iovad {
namespace {

constexpr Hva kHva{0x7f0000000000};

// A step of a space, as its writer runs it.
class Step final : public PlannedChange {
 public:
  explicit Step(std::function<absl::StatusOr<bool>(AddressSpace&)> plan) : plan_(std::move(plan)) {}
  absl::StatusOr<bool> Plan(AddressSpace& core) override { return plan_(core); }
  void Finish(const absl::Status& status) override { ASSERT_TRUE(status.ok()) << status; }

 private:
  const std::function<absl::StatusOr<bool>(AddressSpace&)> plan_;
};

class ImportRecordsTest : public testing::Test {
 protected:
  using Records = std::vector<v1::SpaceRecord>;

  std::shared_ptr<Space> MakeSpace(const std::string& name, uint64_t mappings) {
    auto space = *registry_.CreateSpace(
        {.name = name}, {.uid = RandomId(), .labels = {{"a", "1"}, {"b", "2"}}}, {});
    space->Submit(std::make_unique<Step>([&](AddressSpace& core) -> absl::StatusOr<bool> {
      std::vector<Operation> operations;
      for (uint64_t i = 0; i < mappings; ++i) {
        operations.emplace_back(MapSpec{.gpa = Gpa(i * kPageSize),
                                        .hva = Hva(kHva.value() + i / 2 * kPageSize),
                                        .size = kPageSize,
                                        .label = i == 1 ? "alias" : ""});
      }
      operations.emplace_back(MapSpec{.hva = Hva(kHva.value() + (1 << 30)), .size = kPageSize});
      return core.Update(operations).status().ok();
    }));
    space->Submit(std::make_unique<Step>([&](AddressSpace& core) -> absl::StatusOr<bool> {
      const SvqSpec svq{.queue_size = 8,
                        .driver_hva = Hva(kHva.value() + (2 << 20)),
                        .device_hva = Hva(kHva.value() + (4 << 20))};
      return core.AllocSvqs(absl::MakeConstSpan(&svq, 1)).status().ok();
    }));
    return space;
  }

  static std::string Export(const std::shared_ptr<Space>& space) {
    auto made = SpaceExport::Begin(space);
    EXPECT_TRUE(made.ok()) << made.status();
    std::string all;
    std::string message;
    while (*(*made)->Next(message)) all += message;
    return all;
  }

  static Records Parse(const std::string& bytes) {
    v1::ExportSpaceResponse parsed;
    EXPECT_TRUE(parsed.ParseFromString(bytes));
    return {parsed.records().begin(), parsed.records().end()};
  }

  static absl::Status Check(const Records& records, uint64_t max_mappings = 1 << 20) {
    ImportRecords import("space 'vm1': ", max_mappings);
    for (const v1::SpaceRecord& record : records) {
      if (absl::Status s = import.Add(record); !s.ok()) return s;
    }
    return import.Complete();
  }

  Limits limits_;
  State state_;
  Registry registry_{limits_, state_};
};

void ExpectCorrupt(const absl::Status& status, const std::string& what) {
  EXPECT_EQ(ReasonOf(status), Reason::kExportCorrupt) << what << ": " << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("space 'vm1'")) << what;
}

TEST_F(ImportRecordsTest, TakesWhatIsExported) {
  const Records records = Parse(Export(MakeSpace("vm1", 6)));
  ASSERT_EQ(records.size(), 1u + 7 + 1 + 1);
  ImportRecords import("space 'vm1': ", 100);
  for (const v1::SpaceRecord& record : records) ASSERT_TRUE(import.Add(record).ok());
  ASSERT_TRUE(import.Complete().ok());
  ASSERT_EQ(import.mappings().size(), 6u);
  EXPECT_EQ(import.skipped_count(), 1u);
  EXPECT_EQ(import.svqs().size(), 1u);
  EXPECT_EQ(import.total_bytes(), 6 * kPageSize);
  for (uint64_t i = 0; i < 6; ++i) {
    // Congruent: in the order of the HVAs or not, the IOVAs ascend.
    const ImportedMapping& m = import.mappings()[i];
    EXPECT_NE(m.backing, 0u);
    EXPECT_EQ(import.label(m), m.gpa == Gpa(kPageSize) ? "alias" : "");
  }
}

TEST_F(ImportRecordsTest, EveryFlippedBitIsFound) {
  const std::string bytes = Export(MakeSpace("vm1", 4));
  const Records records = Parse(bytes);
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      v1::ExportSpaceResponse parsed;
      if (!parsed.ParseFromString(damaged)) continue;
      const Records read(parsed.records().begin(), parsed.records().end());
      const absl::Status status = Check(read);
      if (!status.ok()) {
        EXPECT_EQ(ReasonOf(status), Reason::kExportCorrupt) << at << " " << bit << status;
        continue;
      }
      // Another way to write the same.
      ASSERT_EQ(read.size(), records.size());
      for (size_t i = 0; i < read.size(); ++i) {
        EXPECT_EQ(StableBytes(read[i]), StableBytes(records[i])) << at << " " << bit;
      }
    }
  }
}

TEST_F(ImportRecordsTest, CutOffAnywhere) {
  const Records records = Parse(Export(MakeSpace("vm1", 6)));
  for (size_t left = 0; left < records.size(); ++left) {
    ExpectCorrupt(
        Check(Records(records.begin(), records.begin() + static_cast<std::ptrdiff_t>(left))),
        "cut off");
  }
}

TEST_F(ImportRecordsTest, EveryRecordLeftOutTwiceOrSwapped) {
  const Records records = Parse(Export(MakeSpace("vm1", 6)));
  for (size_t i = 0; i < records.size(); ++i) {
    Records without = records;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
    ExpectCorrupt(Check(without), "left out");
    Records twice = records;
    twice.insert(twice.begin() + static_cast<std::ptrdiff_t>(i), records[i]);
    ExpectCorrupt(Check(twice), "twice");
    for (size_t j = i + 1; j < records.size(); ++j) {
      Records swapped = records;
      swapped[i].Swap(&swapped[j]);
      ExpectCorrupt(Check(swapped), "swapped");
    }
  }
}

TEST_F(ImportRecordsTest, TwoExportsMixed) {
  const Records one = Parse(Export(MakeSpace("vm1", 6)));
  const Records other = Parse(Export(MakeSpace("vm2", 6)));
  ASSERT_EQ(one.size(), other.size());
  for (size_t from = 1; from < one.size(); ++from) {
    Records mixed = one;
    for (size_t i = from; i < one.size(); ++i) mixed[i] = other[i];
    // Two spaces made alike differ in their headers only.
    ExpectCorrupt(Check(mixed), "mixed");
  }
  Records joined = one;
  joined.insert(joined.end(), other.begin(), other.end());
  ExpectCorrupt(Check(joined), "joined");
}

TEST_F(ImportRecordsTest, AnotherVersionIsNamed) {
  Records records = Parse(Export(MakeSpace("vm1", 1)));
  records[0].mutable_header()->set_version(7);
  const absl::Status status = Check(records);
  ExpectCorrupt(status, "version");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("version 7"));
}

TEST_F(ImportRecordsTest, KeepsNoMoreThanTheSpaceMayHave) {
  const Records records = Parse(Export(MakeSpace("vm1", 6)));
  EXPECT_TRUE(Check(records, 7).ok());
  const absl::Status status = Check(records, 6);
  EXPECT_EQ(ReasonOf(status), Reason::kMappingLimit);
  EXPECT_EQ(DetailOf(status)->limit, 6u);
}

TEST_F(ImportRecordsTest, RefusesWhatNoMappingIsWhateverTheTrailerSays) {
  const Records records = Parse(Export(MakeSpace("vm1", 2)));
  const auto with = [&](const std::function<void(v1::ExportedMapping&)>& change) {
    Records changed(records.begin(), records.begin() + 2);
    change(*changed[1].mutable_mapping());
    return Check(changed);
  };
  ExpectCorrupt(with([](auto& m) { m.set_size(0); }), "size 0");
  ExpectCorrupt(with([](auto& m) { m.set_iova(kMaxAddress); }), "IOVA wraps");
  ExpectCorrupt(with([](auto& m) { m.set_gpa(kMaxAddress); }), "GPA wraps");
  ExpectCorrupt(with([](auto& m) { m.set_backing_offset(kMaxAddress); }), "offset wraps");
  ExpectCorrupt(with([](auto& m) { m.set_access(v1::ACCESS_UNSPECIFIED); }), "access");
  ExpectCorrupt(with([](auto& m) { m.set_label(std::string(65, 'x')); }), "label");
}

}  // namespace
}  // namespace iovad
