// What the tests of the store share: a directory of their own, commits that are
// waited for, and everything that a store holds.
#ifndef IOVAD_TESTS_UNIT_CORE_STORE_HELPERS_H_
#define IOVAD_TESTS_UNIT_CORE_STORE_HELPERS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/store/state_store.h"

namespace iovad::store {

class StoreDirectory {
 public:
  StoreDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "iovad-store-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << name;
    root_ = name;
  }
  ~StoreDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  StoreDirectory(const StoreDirectory&) = delete;
  StoreDirectory& operator=(const StoreDirectory&) = delete;

  std::string root() const { return root_; }
  // What a store makes.
  std::string state() const { return root_ + "/state"; }
  std::string file() const { return state() + "/iovad.mdb"; }
  std::string journal(int which) const {
    return state() + "/iovad.journal-" + std::to_string(which);
  }

 private:
  std::string root_;
};

// Every file of the state by name, but for the lock, which says who looked last.
inline std::map<std::string, std::string> FilesOf(const StoreDirectory& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory.state())) {
    if (entry.path().filename() == "lock") continue;
    std::ifstream in(entry.path(), std::ios::binary);
    files[entry.path().filename()] = {std::istreambuf_iterator<char>(in),
                                      std::istreambuf_iterator<char>()};
  }
  return files;
}

inline constexpr char kThisBoot[] = "6b2ff0c5-6e5e-4e0c-8d0a-4b1ad2f0a111";
inline constexpr uint64_t kTestMapBytes = uint64_t{1} << 30;
// So that a test is not over before anything was folded.
inline constexpr uint64_t kTestFoldBytes = uint64_t{16} << 10;

inline absl::StatusOr<std::unique_ptr<StateStore>> OpenAt(const StoreDirectory& directory,
                                                          uint64_t map_bytes = kTestMapBytes,
                                                          const std::string& boot = kThisBoot,
                                                          uint64_t fold_bytes = kTestFoldBytes) {
  return StateStore::Open({.directory = directory.state(),
                           .boot_id = boot,
                           .map_bytes = map_bytes,
                           .fold_bytes = fold_bytes});
}

// Ends the test program where the store does not open: nothing could go on.
inline std::unique_ptr<StateStore> MustOpen(const StoreDirectory& directory,
                                            uint64_t map_bytes = kTestMapBytes,
                                            uint64_t fold_bytes = kTestFoldBytes) {
  absl::StatusOr<std::unique_ptr<StateStore>> store =
      OpenAt(directory, map_bytes, kThisBoot, fold_bytes);
  if (!store.ok()) ADD_FAILURE() << store.status();
  return *std::move(store);
}

// With no other thread at it, a commit is answered before it returns.
inline absl::Status CommitNow(StateStore& store, WriteBatch batch) {
  std::optional<absl::Status> answer;
  store.Commit(std::move(batch), [&](const absl::Status& status) { answer = status; });
  return answer ? *answer : absl::InternalError("not answered");
}

inline Mapping GuestMapping(uint64_t id, uint64_t page, uint64_t revision = 1,
                            NotePtr note = NotePtr()) {
  return Mapping(MappingId(id), IovaRange(Iova(page << 12), Iova((page << 12) + 0xfff)),
                 Gpa(page << 12), Hva(0x7f0000000000 + (page << 12)), Access::kReadWrite,
                 Revision(revision), std::move(note));
}

// Everything about a mapping, comparable and printable.
inline std::string Text(const Mapping& m) {
  const MappingNote note = m.note() ? *m.note() : MappingNote();
  std::string text;
  for (const uint64_t n :
       {m.id().value(), m.iova().first().value(), m.last_offset(),
        m.is_guest() ? m.gpa().first().value() : ~uint64_t{0}, m.hva().first().value(),
        m.revision().value(), uint64_t{static_cast<uint8_t>(m.access())}, note.svq.value(),
        note.memory.value()}) {
    text += std::to_string(n) + " ";
  }
  return text + note.label;
}

// By table, space and id.
using Contents = std::map<std::tuple<Table, uint32_t, uint64_t>, std::string>;

// Says where they differ and not all that they hold.
inline ::testing::AssertionResult Same(const Contents& a, const Contents& b) {
  const auto text = [](const Contents& c, Contents::const_iterator it) -> std::string {
    if (it == c.end()) return "nothing";
    const auto& [table, space, id] = it->first;
    return std::string(TableName(table)) + " of space " + std::to_string(space) + ", id " +
           std::to_string(id) + ", " + std::to_string(it->second.size()) + " bytes";
  };
  const auto [at_a, at_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (at_a == a.end() && at_b == b.end()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " records; first "
                                       << text(a, at_a) << " against " << text(b, at_b);
}

inline Contents ReadContents(StateStore& store) {
  Contents contents;
  const auto snapshot = store.TakeSnapshot();
  if (!snapshot.ok()) {
    ADD_FAILURE() << snapshot.status();
    return contents;
  }
  std::vector<SpaceNumber> spaces = {kServer};
  const auto read_blobs = [&](Table table, SpaceNumber space) {
    EXPECT_TRUE((*snapshot)
                    ->ForEachBlob(table, space, 0,
                                  [&](uint64_t id, std::string_view bytes) {
                                    contents[{table, space.value(), id}] = bytes;
                                    return true;
                                  })
                    .ok());
  };
  const absl::Status status =
      (*snapshot)->ForEachSpace([&](SpaceNumber space, std::string_view bytes) {
        spaces.push_back(space);
        contents[{Table::kSpace, space.value(), 0}] = bytes;
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  read_blobs(Table::kDevice, kServer);
  for (const SpaceNumber space : spaces) {
    for (const Table table :
         {Table::kPending, Table::kSvq, Table::kMemory, Table::kHistory, Table::kRequest}) {
      read_blobs(table, space);
    }
    const absl::Status mappings =
        (*snapshot)->ForEachMapping(space, MappingId(0), [&](const Mapping& m) {
          contents[{Table::kMapping, space.value(), m.id().value()}] = Text(m);
          return true;
        });
    EXPECT_TRUE(mappings.ok()) << mappings;
  }
  return contents;
}

}  // namespace iovad::store

#endif  // IOVAD_TESTS_UNIT_CORE_STORE_HELPERS_H_
