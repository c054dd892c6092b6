// Nodes of the B+ trees behind every index, and how they are searched.
//
// Purpose. What makes the trees quick, apart from their logic: keys, ends and
// slots lie in arrays of their own, so that a search reads nothing else; unused
// keys hold 2^64 - 1, so that it needs no count; it has no branches, so that
// the processor can fetch the lines of a node at once instead of in turn.
//
// Thread safety. Thread-compatible.
//
// Invariants.
//  1. Keys ascend; those at and beyond the count are `kMaxAddress`.
//  2. Separator i of an inner node is above every entry of child i and not above
//     any entry of child i + 1.
//  3. Summary i of an inner node is the largest of the summaries in child i;
//     running summary i, where a policy wants it, the largest of those in the
//     children up to i.
#ifndef IOVAD_CORE_BTREE_NODES_H_
#define IOVAD_CORE_BTREE_NODES_H_

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/memory_chunk.h"
#include "core/types.h"

namespace iovad::btree {

// One entry. What a tree's policy does not store reads as 0.
struct Entry {
  uint64_t key = 0;
  uint64_t end = 0;
  uint32_t slot = 0;
};

// What a search cost, for tests that prove bounds.
struct SearchCost {
  uint64_t nodes = 0;
  uint64_t answers = 0;
};

// How many of `kCapacity` (a multiple of 8) ascending keys are below `key`. The
// first loop finds the line, the second the place in it; neither waits for the
// other's memory.
template <int kCapacity>
inline int CountBelow(const uint64_t* keys, uint64_t key) {
  static_assert(kCapacity % 8 == 0);
  int lines = 0;
  for (int i = 7; i < kCapacity - 1; i += 8) lines += keys[i] < key ? 1 : 0;
  const uint64_t* line = keys + lines * 8;
  int in_line = 0;
  for (int i = 0; i < 8; ++i) in_line += line[i] < key ? 1 : 0;
  return lines * 8 + in_line;
}

// How many of `count` used keys are not above `key`.
template <int kCapacity>
inline int CountUpTo(const uint64_t* keys, int count, uint64_t key) {
  if (key == kMaxAddress) return count;
  return CountBelow<kCapacity>(keys, key + 1);
}

// An array that takes no room in trees that do without it.
template <typename T, int kCapacity, bool kPresent>
struct OptionalArray {
  static constexpr bool kStored = true;
  T values[kCapacity];
  T get(int i) const { return values[i]; }
  void set(int i, T value) { values[i] = value; }
};
template <typename T, int kCapacity>
struct OptionalArray<T, kCapacity, false> {
  static constexpr bool kStored = false;
  T get(int) const { return T{}; }
  void set(int, T) {}
};

// `n` elements from `from[i]` to `to[j]`; the two may be the same array.
template <typename T>
inline void MoveElements(T* to, int j, const T* from, int i, int n) {
  if (n > 0) std::memmove(to + j, from + i, static_cast<size_t>(n) * sizeof(T));
}
template <typename T, int kCapacity, bool kPresent>
inline void MoveElements(OptionalArray<T, kCapacity, kPresent>& to, int j,
                         const OptionalArray<T, kCapacity, kPresent>& from, int i, int n) {
  if constexpr (kPresent) MoveElements(to.values, j, from.values, i, n);
}

template <typename Policy>
struct alignas(kCacheLine) Leaf {
  static constexpr int kCapacity = Policy::kLeafCapacity;

  uint64_t keys[kCapacity];
  [[no_unique_address]] OptionalArray<uint64_t, kCapacity, Policy::kEnds> ends;
  [[no_unique_address]] OptionalArray<uint32_t, kCapacity, Policy::kSlots> slots;
  int count;
  Leaf* previous;
  Leaf* next;

  void Clear() {
    std::fill_n(keys, kCapacity, kMaxAddress);
    count = 0;
    previous = next = nullptr;
  }

  Entry entry(int i) const { return Entry{keys[i], ends.get(i), slots.get(i)}; }

  // Index of the first entry not below (key, slot).
  int LowerBound(uint64_t key, uint32_t slot) const {
    int i = CountBelow<kCapacity>(keys, key);
    if constexpr (Policy::kDuplicates) {
      while (i < count && keys[i] == key && slots.values[i] < slot) ++i;
    }
    return i;
  }
  // Index behind the last entry whose key is not above `key`.
  int UpperBound(uint64_t key) const { return CountUpTo<kCapacity>(keys, count, key); }

  // Requires room.
  void Insert(int i, const Entry& e) {
    assert(count < kCapacity);
    MoveElements(keys, i + 1, keys, i, count - i);
    MoveElements(ends, i + 1, ends, i, count - i);
    MoveElements(slots, i + 1, slots, i, count - i);
    keys[i] = e.key;
    ends.set(i, e.end);
    slots.set(i, e.slot);
    ++count;
  }
  void Erase(int i) {
    --count;
    MoveElements(keys, i, keys, i + 1, count - i);
    MoveElements(ends, i, ends, i + 1, count - i);
    MoveElements(slots, i, slots, i + 1, count - i);
    keys[count] = kMaxAddress;
  }
  // Moves the first `n` entries of `next` behind the last one here.
  void TakeFront(Leaf& from, int n) {
    CopyTo(count, from, 0, n);
    count += n;
    from.count -= n;
    MoveElements(from.keys, 0, from.keys, n, from.count);
    MoveElements(from.ends, 0, from.ends, n, from.count);
    MoveElements(from.slots, 0, from.slots, n, from.count);
    std::fill_n(from.keys + from.count, n, kMaxAddress);
  }
  // Moves the last `n` entries of `previous` before the first one here.
  void TakeBack(Leaf& from, int n) {
    MoveElements(keys, n, keys, 0, count);
    MoveElements(ends, n, ends, 0, count);
    MoveElements(slots, n, slots, 0, count);
    CopyTo(0, from, from.count - n, n);
    count += n;
    from.count -= n;
    std::fill_n(from.keys + from.count, n, kMaxAddress);
  }

  // Everything a change reads or writes.
  void Prefetch() const {
    const char* start = reinterpret_cast<const char*>(this);
    for (size_t at = 0; at < sizeof(Leaf); at += kCacheLine) __builtin_prefetch(start + at);
  }

 private:
  void CopyTo(int to, const Leaf& from, int i, int n) {
    MoveElements(keys, to, from.keys, i, n);
    MoveElements(ends, to, from.ends, i, n);
    MoveElements(slots, to, from.slots, i, n);
  }
};

template <typename Policy>
struct alignas(kCacheLine) Inner {
  // One less than the separators' array: what is searched always ends in
  // `kMaxAddress`.
  static constexpr int kKeys = Policy::kInnerKeys;
  static constexpr int kCapacity = kKeys - 1;

  uint64_t keys[kKeys];  // separators; `count - 1` of them are in use
  void* children[kCapacity];
  [[no_unique_address]] OptionalArray<uint64_t, kCapacity, Policy::kSummary> summaries;
  // Those that are not in use are `kMaxAddress`.
  [[no_unique_address]] OptionalArray<uint64_t, kKeys, Policy::kRunning> running;
  [[no_unique_address]] OptionalArray<uint32_t, kCapacity, Policy::kDuplicates> key_slots;
  int count;

  void Clear() {
    std::fill_n(keys, kKeys, kMaxAddress);
    count = 0;
    RebuildRunning();
  }

  void SetSummary(int i, uint64_t summary) {
    if constexpr (Policy::kSummary) {
      summaries.values[i] = summary;
      UpdateRunning(i);
    }
  }

  // The child in which (key, slot) is or belongs.
  int ChildFor(uint64_t key, uint32_t slot) const {
    if constexpr (!Policy::kDuplicates) {
      return CountUpTo<kKeys>(keys, count - 1, key);
    } else {
      int i = CountBelow<kKeys>(keys, key);
      while (i < count - 1 && keys[i] == key && key_slots.values[i] <= slot) ++i;
      return i;
    }
  }

  // The first child from `i` on whose summary is at least `least`, or the count.
  int FirstWith(int i, uint64_t least) const {
    if constexpr (Policy::kRunning) {
      if (i == 0 || running.values[i - 1] < least) return CountBelow<kKeys>(running.values, least);
    }
    while (i < count && summaries.values[i] < least) ++i;
    return i;
  }
  // The last one up to `i`, or -1.
  int LastWith(int i, uint64_t least) const {
    while (i >= 0 && summaries.values[i] < least) --i;
    return i;
  }

  uint64_t LargestSummary() const {
    uint64_t largest = 0;
    if constexpr (Policy::kRunning) {
      largest = count == 0 ? 0 : running.values[count - 1];
    } else if constexpr (Policy::kSummary) {
      for (int i = 0; i < count; ++i) largest = std::max(largest, summaries.values[i]);
    }
    return largest;
  }

  // Puts a child at `i` >= 1, its separator between it and the child before.
  void Insert(int i, const Entry& separator, void* child, uint64_t summary) {
    assert(count < kCapacity);
    MoveElements(keys, i, keys, i - 1, count - i);
    MoveElements(key_slots, i, key_slots, i - 1, count - i);
    MoveElements(children, i + 1, children, i, count - i);
    MoveElements(summaries, i + 1, summaries, i, count - i);
    SetSeparator(i, separator);
    children[i] = child;
    summaries.set(i, summary);
    ++count;
    RebuildRunning();
  }
  // Takes out the child at `i`, and the separator before it (of the first child:
  // the one behind it).
  void Erase(int i) {
    const int key = std::max(i - 1, 0);
    MoveElements(keys, key, keys, key + 1, count - 2 - key);
    MoveElements(key_slots, key, key_slots, key + 1, count - 2 - key);
    MoveElements(children, i, children, i + 1, count - 1 - i);
    MoveElements(summaries, i, summaries, i + 1, count - 1 - i);
    --count;
    if (count >= 1) keys[count - 1] = kMaxAddress;
    RebuildRunning();
  }
  // The separator between child `i` - 1 and child `i`.
  void SetSeparator(int i, const Entry& separator) {
    keys[i - 1] = separator.key;
    key_slots.set(i - 1, separator.slot);
  }
  Entry separator(int i) const { return Entry{keys[i - 1], 0, key_slots.get(i - 1)}; }

  // Moves the first `n` children of `from` behind the last one here. `between`
  // is what separates the two nodes before; what does so after is returned
  // (meaningless when `from` is left empty).
  Entry TakeFront(Inner& from, int n, const Entry& between) {
    if (count > 0) SetSeparator(count, between);
    MoveElements(keys, count, from.keys, 0, n - 1);
    MoveElements(key_slots, count, from.key_slots, 0, n - 1);
    MoveElements(children, count, from.children, 0, n);
    MoveElements(summaries, count, from.summaries, 0, n);
    count += n;
    const Entry now_between = n < from.count ? from.separator(n) : Entry{};
    from.count -= n;
    MoveElements(from.keys, 0, from.keys, n, from.count - 1);
    MoveElements(from.key_slots, 0, from.key_slots, n, from.count - 1);
    MoveElements(from.children, 0, from.children, n, from.count);
    MoveElements(from.summaries, 0, from.summaries, n, from.count);
    from.ClearUnusedKeys();
    RebuildRunning();
    from.RebuildRunning();
    return now_between;
  }
  // Moves the last `n` children of `from`, fewer than it has, before the first
  // one here.
  Entry TakeBack(Inner& from, int n, const Entry& between) {
    MoveElements(keys, n, keys, 0, count - 1);
    MoveElements(key_slots, n, key_slots, 0, count - 1);
    MoveElements(children, n, children, 0, count);
    MoveElements(summaries, n, summaries, 0, count);
    const int start = from.count - n;
    const Entry now_between = from.separator(start);
    MoveElements(keys, 0, from.keys, start, n - 1);
    MoveElements(key_slots, 0, from.key_slots, start, n - 1);
    MoveElements(children, 0, from.children, start, n);
    MoveElements(summaries, 0, from.summaries, start, n);
    const bool had_children = count > 0;
    count += n;
    if (had_children) SetSeparator(n, between);
    from.count = start;
    from.ClearUnusedKeys();
    ClearUnusedKeys();
    RebuildRunning();
    from.RebuildRunning();
    return now_between;
  }

  void PrefetchKeys() const {
    const char* start = reinterpret_cast<const char*>(this);
    for (size_t at = 0; at < sizeof(keys); at += kCacheLine) __builtin_prefetch(start + at);
  }

 private:
  // After summary `from` changed.
  void UpdateRunning(int from) {
    if constexpr (Policy::kRunning) {
      uint64_t largest = from == 0 ? 0 : running.values[from - 1];
      for (int i = from; i < count; ++i) {
        largest = std::max(largest, summaries.values[i]);
        // From where one stays as it was, all do.
        if (i > from && running.values[i] == largest) return;
        running.values[i] = largest;
      }
    }
  }
  void RebuildRunning() {
    if constexpr (Policy::kRunning) {
      uint64_t largest = 0;
      for (int i = 0; i < count; ++i) {
        largest = std::max(largest, summaries.values[i]);
        running.values[i] = largest;
      }
      std::fill(running.values + count, running.values + kKeys, kMaxAddress);
    }
  }

  void ClearUnusedKeys() {
    const int used = std::max(count - 1, 0);
    std::fill(keys + used, keys + kKeys, kMaxAddress);
  }
};

}  // namespace iovad::btree

#endif  // IOVAD_CORE_BTREE_NODES_H_
