// What a destination lacks, held against a plain model of a space: a map by GPA.
#include "client/migrate/difference.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "client/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core/random_ops.h"

namespace iovad::migrate {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kPage = 0x1000;
constexpr uint64_t kHere = 0x7f0000000000;
constexpr uint64_t kThere = 0x7e0000000000;

Rules RulesFor(uint64_t pages, bool keep = true) {
  return {.bindings = *Bindings::Make({{0, pages * kPage - 1, kThere}}), .keep_iovas = keep};
}

v1::Mapping MakeMapping(uint64_t gpa, uint64_t size, uint64_t hva, uint64_t iova,
                        const std::string& label = "") {
  v1::Mapping mapping;
  mapping.set_gpa(gpa);
  mapping.set_size(size);
  mapping.set_hva(hva);
  mapping.set_iova(iova);
  mapping.set_access(v1::ACCESS_READ_WRITE);
  mapping.set_kind(v1::MAPPING_KIND_GUEST);
  mapping.set_label(label);
  return mapping;
}

v1::Mapping HostOnly(uint64_t iova) {
  v1::Mapping mapping = MakeMapping(0, kPage, kHere, iova);
  mapping.clear_gpa();
  mapping.set_kind(v1::MAPPING_KIND_HOST);
  return mapping;
}

v1::Event Mapped(const v1::Mapping& mapping) {
  v1::Event event;
  *event.mutable_mapped() = mapping;
  return event;
}
v1::Event Unmapped(const v1::Mapping& mapping) {
  v1::Event event;
  *event.mutable_unmapped() = mapping;
  return event;
}

// "u0x1000", "m0x1000+0x1000@0x2000 label".
std::vector<std::string> Short(const std::vector<v1::Op>& ops) {
  std::vector<std::string> all;
  const auto hex = [](uint64_t n) {
    char text[32];
    std::snprintf(text, sizeof(text), "%#llx", static_cast<unsigned long long>(n));
    return std::string(text);
  };
  for (const v1::Op& op : ops) {
    if (op.has_unmap()) {
      all.push_back("u" + hex(op.unmap().at_gpa()));
    } else {
      all.push_back("m" + hex(op.map().gpa()) + "+" + hex(op.map().size()) + " at " +
                    (op.map().has_iova() ? hex(op.map().iova()) : "any"));
    }
  }
  return all;
}

TEST(Difference, IsNothingBetweenEquals) {
  const auto ops =
      Difference({MakeMapping(0, kPage, kHere, 0x5000), HostOnly(0x9000)},
                 {HostOnly(0x1000), MakeMapping(0, kPage, kThere, 0x5000)}, RulesFor(16));
  ASSERT_TRUE(ops.ok()) << ops.status();
  EXPECT_THAT(*ops, IsEmpty());
}

TEST(Difference, MapsWhatIsMissingAndUnmapsWhatIsTooMuch) {
  const auto ops = Difference({MakeMapping(0x3000, kPage, kHere, 0x5000)},
                              {MakeMapping(0x1000, kPage, kThere, 0x5000)}, RulesFor(16));
  ASSERT_TRUE(ops.ok()) << ops.status();
  EXPECT_THAT(Short(*ops), ElementsAre("u0x1000", "m0x3000+0x1000 at 0x5000"));
  EXPECT_EQ(ops->back().map().hva(), kThere + 0x3000);
}

TEST(Difference, RemapsWhatDiffersInAnything) {
  const v1::Mapping here = MakeMapping(0x1000, kPage, kHere, 0x5000, "ram");
  v1::Mapping there = here;
  there.set_hva(kThere + 0x1000);
  std::vector<v1::Mapping> others(5, there);
  others[0].set_size(2 * kPage);
  others[1].set_hva(kThere + 0x2000);
  others[2].set_iova(0x6000);
  others[3].set_label("rom");
  others[4].set_access(v1::ACCESS_READ_ONLY);
  for (const v1::Mapping& other : others) {
    const auto ops = Difference({here}, {other}, RulesFor(16));
    ASSERT_TRUE(ops.ok()) << ops.status();
    EXPECT_THAT(Short(*ops), ElementsAre("u0x1000", "m0x1000+0x1000 at 0x5000"));
  }
  // Placed anew, the IOVA is the destination's own.
  EXPECT_THAT(*Difference({here}, {others[2]}, RulesFor(16, false)), IsEmpty());
  EXPECT_THAT(Short(*Difference({here}, {}, RulesFor(16, false))),
              ElementsAre("m0x1000+0x1000 at any"));
}

TEST(Difference, NamesWhatNoBindingHas) {
  for (const auto& [gpa, size] : {std::pair{0xf000u, 0x2000u}, {0x10000u, 0x1000u}}) {
    const v1::Mapping beyond = MakeMapping(gpa, size, kHere, 0x5000, "hotplug");
    for (const absl::Status& status : {Difference({beyond}, {}, RulesFor(16)).status(),
                                       OpsOf({Mapped(beyond)}, RulesFor(16)).status()}) {
      EXPECT_EQ(client::ReasonOf(status), v1::REASON_UNBOUND_MEMORY);
      EXPECT_THAT(std::string(status.message()), HasSubstr("hotplug"));
      EXPECT_THAT(std::string(status.message()), HasSubstr("--bind"));
      EXPECT_EQ(client::DetailOf(status)->ranges(0).first(), gpa);
      EXPECT_EQ(client::DetailOf(status)->ranges(0).last(), gpa + size - 1);
    }
  }
}

TEST(OpsOf, TakesTheNetOfARevision) {
  const v1::Mapping a = MakeMapping(0x1000, kPage, kHere, 0x5000);
  const v1::Mapping b = MakeMapping(0x1000, 2 * kPage, kHere, 0x8000);
  const v1::Mapping c = MakeMapping(0x4000, kPage, kHere, 0xa000);
  const auto ops = [](const std::vector<v1::Event>& events) {
    return Short(*OpsOf(events, RulesFor(16)));
  };
  EXPECT_THAT(ops({}), IsEmpty());
  EXPECT_THAT(ops({Mapped(a), Unmapped(a)}), IsEmpty());
  EXPECT_THAT(ops({Unmapped(a), Mapped(b)}), ElementsAre("u0x1000", "m0x1000+0x2000 at 0x8000"));
  EXPECT_THAT(ops({Mapped(c), Unmapped(b)}), ElementsAre("u0x1000", "m0x4000+0x1000 at 0xa000"));
  EXPECT_THAT(ops({Mapped(a), Unmapped(a), Mapped(b)}), ElementsAre("m0x1000+0x2000 at 0x8000"));
  EXPECT_THAT(ops({Unmapped(a), Mapped(b), Unmapped(b)}), ElementsAre("u0x1000"));
  EXPECT_THAT(ops({Mapped(HostOnly(0)), Unmapped(HostOnly(0x1000))}), IsEmpty());
}

// A space's guest mappings.
class Model {
 public:
  std::vector<v1::Mapping> All() const {
    std::vector<v1::Mapping> all;
    for (const auto& [gpa, mapping] : mappings_) all.push_back(mapping);
    return all;
  }
  bool Overlaps(uint64_t gpa, uint64_t size) const {
    for (const auto& [first, m] : mappings_) {
      if (gpa < first + m.size() && first < gpa + size) return true;
    }
    return false;
  }
  void Map(const v1::Mapping& mapping) {
    ASSERT_FALSE(Overlaps(mapping.gpa(), mapping.size())) << mapping.ShortDebugString();
    for (const auto& [gpa, m] : mappings_) {
      ASSERT_TRUE(mapping.iova() >= m.iova() + m.size() ||
                  m.iova() >= mapping.iova() + mapping.size())
          << mapping.ShortDebugString();
    }
    mappings_[mapping.gpa()] = mapping;
  }
  std::optional<v1::Mapping> Unmap(uint64_t gpa) {
    const auto it = mappings_.find(gpa);
    if (it == mappings_.end()) return std::nullopt;
    const v1::Mapping mapping = it->second;
    mappings_.erase(it);
    return mapping;
  }
  void Do(const std::vector<v1::Op>& ops) {
    bool mapped = false;
    for (const v1::Op& op : ops) {
      if (op.has_unmap()) {
        EXPECT_FALSE(mapped) << "an unmap after a map";
        EXPECT_TRUE(Unmap(op.unmap().at_gpa()).has_value()) << op.ShortDebugString();
        continue;
      }
      mapped = true;
      const v1::MappingSpec& spec = op.map();
      v1::Mapping mapping =
          MakeMapping(spec.gpa(), spec.size(), spec.hva(), spec.iova(), spec.label());
      mapping.set_access(spec.access());
      Map(mapping);
    }
  }
  // As the destination is to have it.
  std::vector<std::string> Moved(const Rules& rules, bool moved) const {
    std::vector<std::string> all;
    for (v1::Mapping mapping : All()) {
      if (moved) mapping.set_hva(*rules.bindings.HvaOf(mapping.gpa(), mapping.size()));
      all.push_back(mapping.ShortDebugString());
    }
    return all;
  }

 private:
  std::map<uint64_t, v1::Mapping> mappings_;
};

// A few changes, as one revision; IOVAs follow from GPAs and a shift, so that a mapping
// that comes back may be elsewhere.
std::vector<v1::Event> ChangeSome(RandomSource& random, uint64_t pages, Model& model) {
  std::vector<v1::Event> events;
  const uint64_t count = random.Between(1, 6);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t gpa = random.Below(pages) * kPage;
    if (const auto gone = model.Unmap(gpa)) {
      events.push_back(Unmapped(*gone));
      if (random.OneIn(2)) continue;
    }
    const uint64_t size = random.Between(1, 4) * kPage;
    if (gpa + size > pages * kPage || model.Overlaps(gpa, size)) continue;
    const uint64_t shift = random.Below(3) * pages * kPage;
    const v1::Mapping mapping = MakeMapping(gpa, size, kHere + random.Below(pages) * kPage,
                                            gpa + shift, random.OneIn(2) ? "a" : "b");
    model.Map(mapping);
    events.push_back(Mapped(mapping));
  }
  return events;
}

TEST(Random, RevisionsAndComparisonsLeadToTheSame) {
  constexpr uint64_t kPages = 48;
  const Rules rules = RulesFor(kPages);
  RandomSource random;
  Model source;
  Model followed;
  Model compared;
  const uint64_t rounds = ScaledOps(3000);
  for (uint64_t i = 0; i < rounds && !::testing::Test::HasFailure(); ++i) {
    // Those of several revisions, too, for who is behind.
    std::vector<v1::Event> events = ChangeSome(random, kPages, source);
    while (random.OneIn(3)) {
      for (v1::Event& event : ChangeSome(random, kPages, source)) events.push_back(event);
    }
    const auto ops = OpsOf(events, rules);
    ASSERT_TRUE(ops.ok()) << ops.status();
    followed.Do(*ops);
    ASSERT_EQ(followed.Moved(rules, false), source.Moved(rules, true));
    // Compared now and then, with whatever somebody else did there.
    if (!random.OneIn(5)) continue;
    if (random.OneIn(3)) ChangeSome(random, kPages, compared);
    const auto difference = Difference(source.All(), compared.All(), rules);
    ASSERT_TRUE(difference.ok()) << difference.status();
    compared.Do(*difference);
    ASSERT_EQ(compared.Moved(rules, false), source.Moved(rules, true));
    EXPECT_THAT(*Difference(source.All(), compared.All(), rules), IsEmpty());
  }
}

v1::Svq MakeSvq(uint64_t id, const Queue& queue) {
  v1::Svq svq;
  svq.set_svq_id(id);
  svq.set_queue_index(queue.index);
  svq.set_queue_size(queue.size);
  svq.set_format(queue.format);
  svq.set_control(queue.control);
  return svq;
}

TEST(CompareQueues, WantsThoseOfTheSourceAndThoseAskedFor) {
  const Queue zero{.index = 0, .size = 256};
  const Queue one{.index = 1, .size = 256};
  const Queue control{.index = 2, .size = 64, .control = true};
  const Queue packed{.index = 0, .size = 256, .format = v1::RING_FORMAT_PACKED};
  QueueDifference difference = CompareQueues({zero, one}, {zero, control}, {});
  EXPECT_THAT(difference.to_allocate, ElementsAre(zero, one, control));
  EXPECT_THAT(difference.to_free, IsEmpty());
  difference = CompareQueues({zero}, {}, {MakeSvq(5, packed), MakeSvq(6, one)});
  EXPECT_THAT(difference.to_allocate, ElementsAre(zero));
  EXPECT_THAT(difference.to_free, ElementsAre(5, 6));
  // Two that are alike are two; one that nobody wants any more goes.
  difference = CompareQueues({zero, zero}, {zero}, {MakeSvq(1, zero)});
  EXPECT_THAT(difference.to_allocate, ElementsAre(zero));
  difference = CompareQueues({zero}, {}, {MakeSvq(1, zero), MakeSvq(2, zero)});
  EXPECT_THAT(difference.to_allocate, IsEmpty());
  EXPECT_THAT(difference.to_free, ElementsAre(2));
}

TEST(QueueOf, TakesAnUnspecifiedFormatForSplit) {
  v1::Svq svq = MakeSvq(1, {.index = 3, .size = 8});
  svq.set_format(v1::RING_FORMAT_UNSPECIFIED);
  EXPECT_EQ(QueueOf(svq), (Queue{.index = 3, .size = 8}));
}

TEST(Bindings, FindTheHvaOfWhatTheyWhollyHave) {
  const auto bindings = Bindings::Make(
      {{0x4000, 0x7fff, 0x100000}, {0, 0xfff, 0x200000}, {~uint64_t{0} - 0xfff, ~uint64_t{0}, 0}});
  ASSERT_TRUE(bindings.ok()) << bindings.status();
  EXPECT_EQ(bindings->HvaOf(0x4000, 0x4000), 0x100000u);
  EXPECT_EQ(bindings->HvaOf(0x5000, 0x1000), 0x101000u);
  EXPECT_EQ(bindings->HvaOf(0x0, 1), 0x200000u);
  EXPECT_EQ(bindings->HvaOf(~uint64_t{0}, 1), 0xfffu);
  EXPECT_EQ(bindings->HvaOf(0x0, 0x1001), std::nullopt);
  EXPECT_EQ(bindings->HvaOf(0x3000, 0x2000), std::nullopt);
  EXPECT_EQ(bindings->HvaOf(0x8000, 1), std::nullopt);
  EXPECT_EQ(bindings->HvaOf(0x7fff, ~uint64_t{0}), std::nullopt);
  EXPECT_EQ(Bindings().HvaOf(0, 1), std::nullopt);
}

TEST(Bindings, AreRefusedWhenTheyOverlapOrWrap) {
  EXPECT_FALSE(Bindings::Make({{0, 0xfff, 0}, {0xfff, 0x1fff, 0}}).ok());
  EXPECT_FALSE(Bindings::Make({{0x1000, 0xfff, 0}}).ok());
  EXPECT_FALSE(Bindings::Make({{0, 0x1000, ~uint64_t{0} - 0xfff}}).ok());
  EXPECT_FALSE(Bindings::Make({{0, 0xfff, 0x1000}, {0, 0xfff, 0x2000}}).ok());
  // Said twice is said once.
  EXPECT_EQ(Bindings::Make({{0, 0xfff, 0}, {0, 0xfff, 0}})->all().size(), 1u);
}

TEST(Bindings, AreTextAndBack) {
  const Bindings bindings =
      *Bindings::Make({{0, 0x7fffffff, kThere}, {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}}});
  EXPECT_EQ(bindings.Text(),
            "0-7fffffff=7e0000000000,ffffffffffffffff-ffffffffffffffff=ffffffffffffffff");
  EXPECT_EQ(*Bindings::Parse(bindings.Text()), bindings);
  EXPECT_EQ(*Bindings::Parse(""), Bindings());
  for (const char* wrong : {"0", "0-1", "0=1", "x-1=0", "0-1=0x", "0-1=", "-1=0",
                            "0-10000000000000000=0", "2-1=0", "0-5=0,5-6=0", "0-1=2=3"}) {
    EXPECT_FALSE(Bindings::Parse(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace iovad::migrate
