// The binary form of records: what was written once must be readable for ever.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "core/absl_view.h"
#include "core/store/record.h"
#include "core/store/write_batch.h"
#include "tests/unit/core/store_helpers.h"

namespace iovad::store {
namespace {

std::string HexOf(std::string_view bytes) { return absl::BytesToHexString(AbslView(bytes)); }

TEST(StoreRecordTest, KeysAreBigEndianAndKnowTheirTable) {
  const EncodedKey mapping(
      {.space = SpaceNumber(0x01020304), .table = Table::kMapping, .id = 0x05060708090a0b0c});
  EXPECT_EQ(HexOf(mapping.bytes()), "010203040505060708090a0b0c");
  const EncodedKey blob(
      {.space = SpaceNumber(1), .table = Table::kHistory, .id = 2, .part = 0x0304});
  EXPECT_EQ(HexOf(blob.bytes()), "000000010600000000000000020304");
}

TEST(StoreRecordTest, KeysCompareAsTheirFieldsDo) {
  std::vector<RecordKey> keys;
  for (const uint32_t space : {0u, 1u, 255u, 256u, ~0u}) {
    for (uint8_t table = 1; table < kTableLimit; ++table) {
      for (const uint64_t id : {uint64_t{0}, uint64_t{255}, uint64_t{256}, ~uint64_t{0}}) {
        const RecordKey key = {
            .space = SpaceNumber(space), .table = static_cast<Table>(table), .id = id};
        keys.push_back(key);
        if (key.table == Table::kMapping) continue;
        for (const uint16_t part : {1, 256, 0xffff}) {
          keys.push_back(key);
          keys.back().part = part;
        }
      }
    }
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const EncodedKey key(keys[i]);
    EXPECT_EQ(ParseKey(key.bytes()), keys[i]);
    if (i > 0) {
      EXPECT_LT(EncodedKey(keys[i - 1]).bytes(), key.bytes());
    }
  }
}

TEST(StoreRecordTest, WhatIsNoKeyIsNotTakenForOne) {
  const std::string good(EncodedKey({.space = SpaceNumber(1), .table = Table::kSvq}).bytes());
  EXPECT_TRUE(ParseKey(good));
  EXPECT_FALSE(ParseKey(""));
  EXPECT_FALSE(ParseKey(good + "x"));
  EXPECT_FALSE(ParseKey(good.substr(0, 13)));
  for (const char table : {'\0', '\x0b', '\xff', '\x05'}) {
    std::string bad = good;
    bad[4] = table;
    EXPECT_FALSE(ParseKey(bad)) << static_cast<int>(table);
  }
}

TEST(StoreRecordTest, MappingsHaveThisForm) {
  const Mapping m(MappingId(7), IovaRange(Iova(0x1000), Iova(0x2fff)), Gpa(0x5000), Hva(0x7000),
                  Access::kReadOnly, Revision(3),
                  NotePtr({.label = "l", .svq = SvqId(8), .memory = MemoryId(9)}));
  std::string value;
  AppendMappingValue("key", m, &value);
  EXPECT_EQ(HexOf(std::string_view(value).substr(4)),
            "3d"                // read only, guest, with SVQ, memory and label
            "0010000000000000"  // IOVA
            "ff1f000000000000"  // last offset
            "0070000000000000"  // HVA
            "0300000000000000"  // revision
            "0050000000000000"  // GPA
            "0800000000000000"  // SVQ
            "0900000000000000"  // memory
            "6c");
  EXPECT_EQ(CheckedPayload("key", value), std::string_view(value).substr(4));
  EXPECT_EQ(CheckedPayload("kex", value), std::nullopt);
  const auto parsed = ParseMapping(MappingId(7), std::string_view(value).substr(4));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(Text(*parsed), Text(m));
}

TEST(StoreRecordTest, AMappingWithoutNoteTakesFortyFiveBytes) {
  std::string value;
  AppendMappingValue("key", GuestMapping(1, 1), &value);
  EXPECT_EQ(value.size(), 45u);
}

TEST(StoreRecordTest, EqualNotesAreShared) {
  const NotePtr note(MappingNote{.label = "same"});
  std::string value;
  AppendMappingValue("", GuestMapping(1, 1, 1, note), &value);
  NotePtr last;
  const auto a = ParseMapping(MappingId(1), std::string_view(value).substr(4), &last);
  const auto b = ParseMapping(MappingId(2), std::string_view(value).substr(4), &last);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(&*a->note(), &*b->note());
}

TEST(StoreRecordTest, AnyFlippedBitIsSeen) {
  const EncodedKey key({.space = SpaceNumber(1), .table = Table::kMapping, .id = 1});
  std::string value;
  AppendMappingValue(key.bytes(), GuestMapping(1, 1), &value);
  for (size_t bit = 0; bit < value.size() * 8; ++bit) {
    value[bit / 8] = static_cast<char>(value[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(CheckedPayload(key.bytes(), value)) << bit;
    value[bit / 8] = static_cast<char>(value[bit / 8] ^ (1 << (bit % 8)));
  }
}

TEST(StoreRecordTest, PayloadsThatAreNoMappingAreRefused) {
  std::string value;
  AppendMappingValue("", GuestMapping(1, 1), &value);
  const std::string good = value.substr(4);
  ASSERT_TRUE(ParseMapping(MappingId(1), good));
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(ParseMapping(MappingId(1), good.substr(0, size))) << size;
  }
  EXPECT_FALSE(ParseMapping(MappingId(1), good + "x"));  // a label without its bit
  std::string bad = good;
  bad[0] = static_cast<char>(bad[0] | 0x40);  // an unknown bit
  EXPECT_FALSE(ParseMapping(MappingId(1), bad));
  bad = good;
  bad[0] = static_cast<char>(bad[0] & ~0x03);  // no access
  EXPECT_FALSE(ParseMapping(MappingId(1), bad));
  bad = good;
  bad.replace(1, 8, 8, '\xff');  // IOVA and size wrap
  EXPECT_FALSE(ParseMapping(MappingId(1), bad));
}

TEST(StoreRecordTest, BlobsAreJoinedOnlyWhole) {
  WriteBatch batch;
  const std::string bytes = std::string(kPartBytes, 'a') + std::string(kPartBytes, 'b') + "c";
  batch.PutSvq(SpaceNumber(1), SvqId(2), bytes);
  std::vector<std::pair<RecordKey, std::string>> parts;
  WriteBatch::Cursor cursor(batch);
  for (WriteBatch::Op op; cursor.Next(&op);) {
    parts.emplace_back(*ParseKey(op.key), *CheckedPayload(op.key, op.value));
  }
  ASSERT_EQ(parts.size(), 3u);
  using Result = BlobJoiner::Result;
  BlobJoiner joiner;
  EXPECT_EQ(joiner.Add(parts[0].first, parts[0].second), Result::kPart);
  EXPECT_EQ(joiner.Add(parts[1].first, parts[1].second), Result::kPart);
  EXPECT_EQ(joiner.unfinished()->part, 0);
  EXPECT_EQ(joiner.Add(parts[2].first, parts[2].second), Result::kWhole);
  EXPECT_EQ(joiner.bytes(), bytes);
  EXPECT_FALSE(joiner.unfinished());

  EXPECT_EQ(joiner.Add(parts[1].first, parts[1].second), Result::kBroken);
  EXPECT_EQ(joiner.Add(parts[0].first, parts[0].second), Result::kPart);
  EXPECT_EQ(joiner.Add(parts[2].first, parts[2].second), Result::kBroken);
  EXPECT_EQ(joiner.Add(parts[0].first, parts[0].second), Result::kPart);
  EXPECT_EQ(joiner.Add(parts[1].first, "short"), Result::kBroken);
  EXPECT_EQ(joiner.Add(parts[0].first, "no"), Result::kBroken);
}

}  // namespace
}  // namespace iovad::store
