// Streaming calls whose end is an absl::Status.
//
// Thread safety. One thread may read while another writes. `Cancel` may be
// called from any thread, and makes a waiting `Read` or `Write` return false.
//
// Example:
//   v1::WatchResponse response;
//   while (stream->Read(response)) Show(response);
//   absl::Status why = stream->Finish();
#ifndef IOVAD_CLIENT_STREAM_H_
#define IOVAD_CLIENT_STREAM_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "client/error.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"

namespace iovad::client {

// The server speaks.
template <typename Response>
class ReadStream {
 public:
  // `start` is given the context and returns gRPC's reader; `address` is for
  // errors.
  template <typename Start>
  ReadStream(std::string address, Start start)
      : address_(std::move(address)), reader_(start(context_)) {}

  // The next message; false when there is none any more: ask `Finish` why.
  bool Read(Response& response) { return reader_->Read(&response); }
  void Cancel() { context_.TryCancel(); }
  // How the stream ended. Once, after `Read` returned false.
  absl::Status Finish() { return NamingServer(FromGrpc(reader_->Finish()), address_); }

 private:
  std::string address_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<Response>> reader_;
};

// Both speak.
template <typename Request, typename Response>
class BidiStream {
 public:
  template <typename Start>
  BidiStream(std::string address, Start start)
      : address_(std::move(address)), stream_(start(context_)) {}

  // False when the stream is broken.
  bool Write(const Request& request) { return stream_->Write(request); }
  // Says that there is nothing more to come.
  bool WritesDone() { return stream_->WritesDone(); }
  bool Read(Response& response) { return stream_->Read(&response); }
  void Cancel() { context_.TryCancel(); }
  absl::Status Finish() { return NamingServer(FromGrpc(stream_->Finish()), address_); }

 private:
  std::string address_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<Request, Response>> stream_;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_STREAM_H_
