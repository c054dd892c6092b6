// Waits for the outcome of something that answers on another thread.
//
// Thread safety. `Set` once, from any thread; `Wait` from the one that made it.
#ifndef IOVAD_SERVER_OUTCOME_H_
#define IOVAD_SERVER_OUTCOME_H_

#include <optional>
#include <utility>

#include "absl/synchronization/notification.h"

namespace iovad {

template <typename T>
class Outcome {
 public:
  void Set(T value) {
    value_ = std::move(value);
    done_.Notify();
  }
  T& Wait() {
    done_.WaitForNotification();
    return *value_;
  }

 private:
  absl::Notification done_;
  std::optional<T> value_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_OUTCOME_H_
