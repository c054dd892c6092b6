#include "server/recover.h"

#include <stdio.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/store/record.h"
#include "core/store/salvage.h"
#include "core/store/state_store.h"
#include "server/logging.h"
#include "server/restore.h"
#include "server/server_context.h"
#include "server/state.h"

namespace iovad {
namespace {

// Takes out of a salvaged state what does not fit together, and names it.
absl::StatusOr<std::vector<std::string>> MendWhole(const Config& config) {
  const absl::StatusOr<std::unique_ptr<State>> state = State::Open(config);
  if (!state.ok()) return state.status();
  DrainGate gate;
  ServerContext context(config, gate, **state);
  return Mend(context);
}

int Refuse(const absl::Status& why) {
  fprintf(stderr, "iovad: %s\n", std::string(why.message()).c_str());
  return 1;
}

}  // namespace

int RunRecover(const Config& config) {
  SetUpLogging(LogLevel::kError, config.log_format);
  absl::StatusOr<std::string> boot_id = store::ReadBootId();
  if (!boot_id.ok()) return Refuse(boot_id.status());
  const absl::StatusOr<store::SalvageReport> report =
      store::Salvage({.directory = config.state_dir, .boot_id = *std::move(boot_id)});
  if (!report.ok()) return Refuse(report.status());
  if (report->kept_as.empty()) {
    printf("%s: nothing is damaged\n", config.state_dir.c_str());
    return 0;
  }
  printf("recovered:\n");
  for (size_t table = 0; table < report->recovered.size(); ++table) {
    const std::string name(store::TableName(static_cast<store::Table>(table)));
    if (name.empty()) continue;
    printf("  %-10s %10lld\n", name.c_str(),
           static_cast<long long>(report->recovered[table]));  // NOLINT(google-runtime-int)
  }
  printf("the damaged file is kept as %s\n", report->kept_as.c_str());
  const absl::StatusOr<std::vector<std::string>> mended = MendWhole(config);
  if (!mended.ok()) return Refuse(mended.status());
  if (report->lost_lines == 0 && mended->empty()) return 0;
  printf("lost:\n");
  for (const std::string& line : report->lost) printf("  %s\n", line.c_str());
  if (report->lost_lines > report->lost.size()) {
    printf("  and %llu more\n",
           static_cast<unsigned long long>(  // NOLINT(google-runtime-int)
               report->lost_lines - report->lost.size()));
  }
  for (const std::string& line : *mended) printf("  %s\n", line.c_str());
  return 1;
}

}  // namespace iovad
