// Making a space of the records of an export.
//
// Purpose. What happens once an import's records are known to be whole: the space is
// made, attached, mapped step by step, and gets its shadow virtqueues. All or nothing:
// when a step fails, the space goes again.
//
// Thread safety. `Start` from any thread. What it is told to call is called from one
// thread at a time, the worker or one that brings a device's answer.
//
// Invariants.
//  1. `done` is called once, and last.
//  2. When it is told of an error, there is no space.
#ifndef IOVAD_SERVER_SPACE_IMPORT_H_
#define IOVAD_SERVER_SPACE_IMPORT_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/migration.pb.h"
#include "server/call.h"
#include "server/import_records.h"
#include "server/server_context.h"
#include "server/space.h"
#include "server/task_thread.h"

namespace iovad {

class SpaceImport : public std::enable_shared_from_this<SpaceImport> {
 public:
  struct Listener {
    std::function<void(const v1::ImportProgress&)> progress;
    // Whether nobody waits for the result any more.
    std::function<bool()> abandoned;
    // With the result, or why there is none.
    std::function<void(const absl::Status&, const v1::ImportSpaceResponse&)> done;
  };

  // `records` are complete, and bound. Steps run on `worker`, which outlives them.
  // Errors as those of CreateSpace, RegisterMemory, Update and AllocSVQ; TOO_MANY_OPS
  // when the result would not fit into a message.
  static void Start(ServerContext& context, TaskThread& worker, const v1::ImportHeader& header,
                    std::unique_ptr<ImportRecords> records, Listener listener);

 private:
  SpaceImport(ServerContext& context, TaskThread& worker, const v1::ImportHeader& header,
              std::unique_ptr<ImportRecords> records, Listener listener);

  // The steps. Each begins the next one.
  void Create();
  absl::Status RegisterMemories();
  void MapSome();
  void Mapped(const absl::Status& status);
  void MakeSomeSvqs();
  void MadeSvqs(const absl::Status& status);
  void Succeed();
  void Fail(const absl::Status& status);

  // Runs a step on the worker; when the import was abandoned, fails instead.
  void Then(void (SpaceImport::*step)());
  void Finish(const absl::Status& status);

  ServerContext& context_;
  TaskThread& worker_;
  const v1::ImportHeader header_;
  const std::unique_ptr<ImportRecords> records_;
  const Listener listener_;
  v1::ImportSpaceResponse response_;
  std::optional<Repeats> repeats_;
  std::shared_ptr<Space> space_;
  size_t mapped_ = 0;
  size_t mapping_ = 0;  // at the end of the step that runs
  v1::ImportProgress progress_;
  size_t svqs_made_ = 0;
  v1::AllocSVQRequest svq_request_;
  v1::AllocSVQResponse svq_response_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_IMPORT_H_
