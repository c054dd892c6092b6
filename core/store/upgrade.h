// The forms that a store has had, and how to come from one to the next.
//
// Purpose. A store says which version of the format it has. One that is older is brought
// to the newest when it is opened, step by step, each in one transaction with the new
// version's number: a step that is cut short has not happened.
//
// What journals hold has the form of the store beside them, so it is folded before.
//
// Thread safety. Free functions.
//
// Example:
//   const Format format = {.version = 2, .upgrades = {{.from = 1, .run = AddSizes}}};
#ifndef IOVAD_CORE_STORE_UPGRADE_H_
#define IOVAD_CORE_STORE_UPGRADE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/store/check.h"
#include "core/store/lmdb_env.h"

namespace iovad::store {

// Brings a store of version `from` to the next one: MDB_SUCCESS, or an error of LMDB's.
struct Upgrade {
  uint32_t from;
  std::function<int(MDB_txn* txn)> run;
};

struct Format {
  uint32_t version = kFormatVersion;
  std::vector<Upgrade> upgrades = {};
};

// That of this iovad. Version 1 is the first, so there are no upgrades yet.
const Format& CurrentFormat();

// FAILED_PRECONDITION when a store of that version is from a newer iovad, or from an older
// one that there is no way from. `path` is for the message.
absl::Status CheckVersion(const std::string& path, uint32_t version, const Format& format);

// Brings the store to the newest version. `identity` is what it says of itself, and does
// afterwards.
absl::Status RunUpgrades(const LmdbEnv& env, const Format& format, StoreIdentity& identity);

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_UPGRADE_H_
