#include "tests/unit/core/random_requests.h"

#include <algorithm>
#include <utility>

namespace iovad::reference {
namespace {

constexpr uint64_t kHvaBase = 0x7f0000000000;
constexpr uint64_t kLarge = uint64_t{2} << 20;
constexpr uint64_t kHuge = uint64_t{1} << 30;

}  // namespace

RandomRequests::RandomRequests(RandomSource& source) : source_(source) {
  options_.name = "model";
  const uint64_t pages[] = {4096, 4096, 4096, 4096, 65536, kLarge};
  options_.page_size = pages[source_.Below(std::size(pages))];
  options_.placement = static_cast<Placement>(source_.Below(3));
  options_.max_mappings = source_.OneIn(4) ? source_.Between(1, 60) : 1 << 20;
  pages_ = source_.Between(16, 600);
  usual_count_ = source_.Between(4, 100);
  ChooseRange();
  ChooseReserved();
}

void RandomRequests::ChooseRange() {
  const uint64_t bytes = pages_ * options_.page_size;
  switch (source_.Below(6)) {
    case 0:
      break;  // the default
    case 1:
      options_.range = IovaRange::Whole();
      break;
    case 2:  // narrow, at 0
      options_.range = IovaRange(Iova(0), Iova(bytes - 1));
      break;
    case 3:  // narrow, at 2^64 - 1
      options_.range = IovaRange(Iova(kMaxAddress - bytes + 1), Iova(kMaxAddress));
      break;
    case 4: {  // with crooked edges
      const uint64_t first = source_.Below(3 * options_.page_size);
      options_.range = IovaRange(Iova(first), Iova(first + source_.Between(1, bytes)));
      break;
    }
    case 5:  // room for several huge pages
      options_.range = IovaRange(Iova(options_.page_size), Iova(6 * kHuge));
      break;
  }
}

void RandomRequests::ChooseReserved() {
  if (source_.OneIn(3)) return;  // the default
  options_.reserved.clear();
  if (source_.OneIn(2)) return;
  if (source_.OneIn(3)) {  // a comb, with few whole pages between its teeth
    uint64_t next = options_.range.first().value();
    for (uint64_t i = 0; i < 40; ++i) {
      next += source_.Below(2 * options_.page_size);
      if (auto tooth = IovaRange::FromSize(Iova(next), 1 + source_.Below(options_.page_size))) {
        options_.reserved.push_back(*tooth);
      }
    }
    return;
  }
  const uint64_t count = source_.Between(1, 24);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t first = options_.range.first().value() +
                           source_.Below(pages_ * options_.page_size) -
                           source_.Below(options_.page_size);
    const uint64_t bytes = source_.Between(1, 3 * options_.page_size);
    if (auto range = IovaRange::FromSize(Iova(first), bytes)) options_.reserved.push_back(*range);
  }
  if (source_.OneIn(4)) {
    options_.reserved.emplace_back(Iova(kMaxAddress - source_.Below(1 << 20)), Iova(kMaxAddress));
  }
}

uint64_t RandomRequests::Size() {
  const uint64_t page = options_.page_size;
  if (source_.OneIn(100)) return 0;
  if (source_.OneIn(100)) return source_.Below(4 * page);  // most likely unaligned
  if (source_.OneIn(100)) return (uint64_t{1} << 63) + source_.Below(4) * page;
  if (source_.OneIn(100)) return uint64_t{0} - source_.Between(1, 4) * page;
  if (source_.OneIn(12)) return source_.Between(1, 3) * kLarge + source_.Below(2) * page;
  if (source_.OneIn(24)) return source_.Between(1, 2) * kHuge;
  if (source_.OneIn(10)) return source_.Between(1, 64) * page;
  return source_.Between(1, 6) * page;
}

uint64_t RandomRequests::Page(uint64_t base) {
  const uint64_t page = options_.page_size;
  if (source_.OneIn(200)) return base + source_.Below(pages_ * page);  // unaligned
  if (source_.OneIn(20)) return uint64_t{0} - source_.Between(1, 8) * page;
  return base + source_.Below(pages_) * page;
}

uint64_t RandomRequests::IovaPage() {
  const uint64_t page = options_.page_size;
  const uint64_t base = options_.range.first().value() / page * page;
  // Just outside the range, too.
  if (source_.OneIn(30)) return base - page;
  if (source_.OneIn(30)) return options_.range.last().value() / page * page;
  if (source_.OneIn(30)) return 0xfee00000 / page * page;
  return Page(base);
}

IovaRange RandomRequests::NextIovaRange() {
  const uint64_t first = IovaPage() + (source_.OneIn(4) ? source_.Below(options_.page_size) : 0);
  const uint64_t bytes = source_.Between(1, pages_ * options_.page_size);
  return IovaRange::FromSize(Iova(first), bytes).value_or(IovaRange::Whole());
}

HvaRange RandomRequests::NextHvaRange() {
  const uint64_t first = Page(kHvaBase) + source_.Below(options_.page_size);
  return HvaRange::FromSize(Hva(first), source_.Between(1, 16 * options_.page_size))
      .value_or(HvaRange(Hva(kMaxAddress), Hva(kMaxAddress)));
}

Operation RandomRequests::NextOperation(const State& state) {
  const bool full = state.mappings.size() > usual_count_;
  if (source_.OneIn(full ? 4 : 2)) return NextMap(state);
  if (!full && source_.OneIn(3)) return NextMap(state);
  return NextUnmap(state);
}

MapSpec RandomRequests::NextMap(const State& state) {
  MapSpec spec{.hva = Hva(Page(kHvaBase)), .size = Size(), .access = AnyAccess()};
  if (!source_.OneIn(4)) spec.gpa = Gpa(Page(0));
  if (source_.OneIn(3)) spec.iova = Iova(IovaPage());
  if (source_.OneIn(16)) spec.label = std::string(source_.Below(66), 'm');
  if (source_.OneIn(500)) spec.label = "a\nb";
  if (!state.mappings.empty() && source_.OneIn(8)) {
    // The same again, or nearly.
    const Mapping& m = AnyOf(state);
    spec.gpa = m.is_guest() ? std::optional(m.gpa().first()) : std::nullopt;
    spec.hva = m.hva().first();
    spec.size = m.size();
    spec.access = m.access();
    spec.iova.reset();
    if (source_.OneIn(2)) spec.iova = m.iova().first();
    if (source_.OneIn(4)) spec.access = AnyAccess();
    if (source_.OneIn(4)) spec.size += options_.page_size;
    if (source_.OneIn(4)) spec.hva = Hva(Page(kHvaBase));
    if (spec.gpa.has_value() && source_.OneIn(4)) spec.gpa = Gpa(Page(0));
  }
  return spec;
}

template <typename Address>
Range<Address> RandomRequests::Around(Range<Address> own, uint64_t base) {
  const uint64_t page = options_.page_size;
  uint64_t first = own.first().value();
  uint64_t last = own.last().value();
  switch (source_.Below(9)) {
    case 0:
      break;
    case 1:  // more at both ends, as far as there is more
      first -= std::min(first, source_.Below(8) * page);
      last += std::min(kMaxAddress - last, source_.Below(8) * page);
      break;
    case 2:  // the front of it
      last = first + source_.Below(last - first + 1);
      if (!source_.OneIn(4)) last |= page - 1;
      break;
    case 3:  // the back of it
      first += source_.Below(last - first + 1);
      if (!source_.OneIn(4)) first &= ~(page - 1);
      break;
    case 4:  // the middle of it
      first += std::min(last - first, page);
      last -= std::min(last - first, page);
      break;
    case 5:  // across its end into what follows
      first += std::min(last - first, source_.Below(4) * page);
      last += std::min(kMaxAddress - last, source_.Below(32) * page);
      break;
    case 6: {  // somewhere
      first = Page(base);
      last = first + std::min(kMaxAddress - first, source_.Below(8 * page));
      if (!source_.OneIn(4)) last |= page - 1;
      break;
    }
    case 7:  // a half of all there is, or the whole
      if (!source_.OneIn(24)) break;
      first = source_.OneIn(2) ? 0 : uint64_t{1} << 63;
      last = source_.OneIn(2) ? kMaxAddress : kMaxAddress >> (first == 0 ? 1 : 0);
      break;
    case 8:  // a byte
      last = first = source_.OneIn(2) ? first : last;
      break;
  }
  return Range<Address>(Address(std::min(first, last)), Address(std::max(first, last)));
}

UnmapSpec RandomRequests::NextUnmap(const State& state) {
  UnmapSpec spec{.allow_split = AllowSplit(source_.OneIn(2)),
                 .allow_missing = AllowMissing(source_.OneIn(3))};
  if (state.mappings.empty() || source_.OneIn(20)) {
    const uint64_t page = options_.page_size;
    switch (source_.Below(4)) {
      case 0:
        spec.what = MappingId(source_.Below(state.next_mapping_id + 2));
        break;
      case 1:
        spec.what = AtGpa{Gpa(Page(0))};
        break;
      case 2:
        spec.what = AtIova{Iova(IovaPage() + page)};
        break;
      case 3:
        spec.what = NextHvaRange();
        break;
    }
    return spec;
  }
  const Mapping& m = AnyOf(state);
  switch (source_.Below(6)) {
    case 0:
      spec.what = m.id();
      break;
    case 1: {  // one page into it, now and then
      const uint64_t gpa = m.is_guest() ? m.gpa().first().value() : Page(0);
      spec.what = AtGpa{Gpa(gpa + (source_.OneIn(6) ? options_.page_size : 0))};
      break;
    }
    case 2: {
      const uint64_t iova = m.iova().first().value();
      spec.what = AtIova{Iova(iova + (source_.OneIn(6) ? options_.page_size : 0))};
      break;
    }
    case 3:
      if (m.is_guest()) {
        spec.what = Around(m.gpa(), 0);
      } else {
        spec.what = Around(m.hva(), kHvaBase);
      }
      break;
    case 4:
      spec.what = Around(m.iova(), options_.range.first().value());
      break;
    case 5:  // guest memory is not found by its HVA
      spec.what = Around(m.hva(), kHvaBase);
      break;
  }
  return spec;
}

SvqSpec RandomRequests::NextSvq() {
  SvqSpec spec{.queue_index = static_cast<uint32_t>(source_.Below(4)),
               .queue_size = uint32_t{1} << source_.Below(11),
               .format = source_.OneIn(3) ? RingFormat::kPacked : RingFormat::kSplit,
               .control = source_.OneIn(4)};
  const bool packed = spec.format == RingFormat::kPacked;
  // One fault at most; the addresses may have one too.
  const uint64_t fault = source_.Below(60);
  constexpr uint64_t kFaults = 4;
  // Apart from each other, most of the time.
  uint64_t next =
      fault < kFaults ? kHvaBase + source_.Below(pages_) * options_.page_size : Page(kHvaBase);
  const auto place = [&] { return Hva(std::exchange(next, next + 8 * options_.page_size)); };
  if (packed) spec.desc_hva = place();
  spec.driver_hva = place();
  spec.device_hva = place();
  if (spec.control) {
    spec.control_out_hva = place();
    spec.control_in_hva = source_.OneIn(20) ? *spec.control_out_hva : place();
  }
  switch (fault) {
    case 0:
      spec.queue_size = source_.OneIn(2) ? 0 : 32769;
      break;
    case 1:
      spec.queue_size = 24;
      break;
    case 2:
      spec.device_hva.reset();
      break;
    case 3:
      if (!packed) spec.desc_hva = place();
      break;
  }
  return spec;
}

Query RandomRequests::NextQuery(const State& state) {
  Query query{.size = source_.OneIn(2) ? source_.Between(1, 64)
                                       : source_.Between(1, 12 * options_.page_size)};
  if (!source_.OneIn(3)) query.access = AnyAccess();
  uint64_t nudge = source_.OneIn(2) ? source_.Below(options_.page_size) : 0;
  const bool near = !state.mappings.empty() && !source_.OneIn(4);
  const Mapping* m = near ? &AnyOf(state) : nullptr;
  uint64_t address = 0;
  switch (source_.Below(3)) {
    case 0:
      address = m != nullptr && m->is_guest() ? m->gpa().first().value() : Page(0);
      query.address = Gpa(address += nudge);
      break;
    case 1:
      address = m != nullptr ? m->hva().first().value() : Page(kHvaBase);
      query.address = Hva(address += nudge);
      break;
    case 2:
      address = m != nullptr ? m->iova().first().value() : IovaPage();
      query.address = Iova(address += nudge);
      break;
  }
  if (source_.OneIn(16)) query.size = m != nullptr ? m->size() : options_.page_size;
  if (source_.OneIn(64)) query.size = uint64_t{0} - address;  // up to 2^64 - 1
  if (query.size == 0) query.size = 1;
  if (query.size - 1 > kMaxAddress - address) query.size = kMaxAddress - address + 1;
  if (query.size == 0) query.size = kMaxAddress;
  return query;
}

}  // namespace iovad::reference
