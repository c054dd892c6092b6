#include "core/fault_point.h"

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/absl_view.h"
#include "core/mutex.h"

namespace iovad {
namespace {

struct Rule {
  std::string point;
  bool kill = false;
  int error = 0;
  // The passing that it is about; 0 is every one.
  uint64_t at = 0;
  uint64_t passings = 0;
};

struct Rules {
  Mutex mu;
  std::vector<Rule> list ABSL_GUARDED_BY(mu);
};

// Never destroyed: threads may pass a point while the process ends.
Rules& AllRules() {
  static auto* rules = new Rules;
  return *rules;
}

bool ParseRule(absl::string_view text, Rule* rule) {
  const std::vector<std::string> fields = absl::StrSplit(text, ':');
  if (fields.size() < 3 || fields.size() > 4 || fields[0].empty()) return false;
  rule->point = fields[0];
  rule->kill = fields[1] == "kill";
  if (rule->kill) {
    return fields.size() == 3 && absl::SimpleAtoi(fields[2], &rule->at) && rule->at > 0;
  }
  if (fields[1] != "error") return false;
  if (!absl::SimpleAtoi(fields[2], &rule->error) || rule->error <= 0) return false;
  return fields.size() == 3 || (absl::SimpleAtoi(fields[3], &rule->at) && rule->at > 0);
}

}  // namespace

namespace fault_internal {

std::atomic<bool> armed = false;

int Passed(std::string_view point) {
  Rules& rules = AllRules();
  const MutexLock lock(rules.mu);
  int error = 0;
  for (Rule& rule : rules.list) {
    if (rule.point != point) continue;
    ++rule.passings;
    if (rule.at != 0 && rule.passings != rule.at) continue;
    if (rule.kill) (void)raise(SIGKILL);
    error = rule.error;
  }
  return error;
}

}  // namespace fault_internal

absl::Status ArmFaultPoints(std::string_view rules) {
  std::vector<Rule> list;
  for (const absl::string_view text : absl::StrSplit(AbslView(rules), ',', absl::SkipEmpty())) {
    Rule rule;
    if (!ParseRule(text, &rule)) {
      return absl::InvalidArgumentError(
          absl::StrCat(kFaultVariable, ": '", text,
                       "' is neither POINT:kill:N nor POINT:error:ERRNO nor POINT:error:ERRNO:N"));
    }
    list.push_back(std::move(rule));
  }
  Rules& all = AllRules();
  const MutexLock lock(all.mu);
  all.list = std::move(list);
  fault_internal::armed.store(!all.list.empty(), std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status ArmFaultPointsFromEnvironment() {
  const char* rules = std::getenv(kFaultVariable);
  return rules == nullptr ? absl::OkStatus() : ArmFaultPoints(rules);
}

}  // namespace iovad
