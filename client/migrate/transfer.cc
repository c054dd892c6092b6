#include "client/migrate/transfer.h"

#include <utility>

#include "client/migrate/state.h"

namespace iovad::migrate {
namespace {

absl::Status EndedEarly(client::ReadStream<v1::ExportSpaceResponse>& stream) {
  absl::Status status = stream.Finish();
  return status.ok() ? absl::DataLossError("the export ended too early") : status;
}

// The next message that has records.
bool ReadSome(client::ReadStream<v1::ExportSpaceResponse>& stream,
              v1::ExportSpaceResponse& records) {
  while (stream.Read(records)) {
    if (records.records_size() > 0) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<Transferred> Transfer(
    client::Connection& source, const std::string& space, const std::string& uid,
    client::Connection& destination, v1::ImportHeader header,
    const std::function<void(const v1::ImportProgress&)>& progress) {
  v1::ExportSpaceRequest ask;
  ask.set_space(space);
  ask.set_space_uid(uid);
  const auto from = source.ExportSpace(ask);
  v1::ImportSpaceRequest message;
  v1::ExportSpaceResponse& records = *message.mutable_records();
  // Nothing is begun at the destination for a space that is not there.
  if (!ReadSome(*from, records)) return EndedEarly(*from);
  for (std::string& key : AllKeys(records.records(0).header().space().labels())) {
    header.add_remove_labels(std::move(key));
  }
  const auto to = destination.ImportSpace();
  v1::ImportSpaceRequest first;
  *first.mutable_header() = std::move(header);
  Transferred transferred;
  bool whole = false;
  bool writable = to->Write(first);
  while (writable) {
    const v1::SpaceRecord& last = records.records(records.records_size() - 1);
    whole = last.has_trailer();
    transferred.revision = last.trailer().revision();
    writable = to->Write(message);
    if (whole || !writable) break;
    if (!ReadSome(*from, records)) break;
  }
  if (writable && !whole) {
    to->Cancel();
    (void)to->Finish();
    return EndedEarly(*from);
  }
  if (!writable) from->Cancel();
  const absl::Status exported = [&] {
    v1::ExportSpaceResponse rest;
    while (from->Read(rest)) {
    }
    return from->Finish();
  }();
  // A stream that cannot be written to says why when it is finished.
  if (writable) to->WritesDone();
  v1::ImportSpaceResponse response;
  bool has_result = false;
  while (to->Read(response)) {
    if (response.has_progress()) progress(response.progress());
    if (!response.has_result()) continue;
    has_result = true;
    transferred.result.Swap(response.mutable_result());
  }
  const absl::Status imported = to->Finish();
  if (!imported.ok()) return imported;
  if (writable && !exported.ok()) return exported;
  if (!has_result) return absl::UnavailableError("the destination ended the stream");
  return transferred;
}

}  // namespace iovad::migrate
