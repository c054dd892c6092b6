#include "client/session.h"

#include <sys/random.h>

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/mirror/mirror_runner.h"

namespace iovad::client {
namespace {

// Answers to request ids are kept for 10 minutes, unless the server was told otherwise.
// A repeat that may come later could be done twice.
constexpr absl::Duration kRepeatFor = absl::Minutes(5);

// 96 bits.
std::string RandomPrefix() {
  uint32_t words[3];
  if (getrandom(words, sizeof(words), 0) != static_cast<ssize_t>(sizeof(words))) {
    std::random_device random;
    for (uint32_t& word : words) word = random();
  }
  return absl::StrCat(absl::Hex(words[0], absl::kZeroPad8), absl::Hex(words[1], absl::kZeroPad8),
                      absl::Hex(words[2], absl::kZeroPad8), "-");
}

// What a repeat may mend.
bool MayGoAway(const absl::Status& status) {
  return absl::IsUnavailable(status) || IsLostConnection(status) ||
         client::ReasonOf(status) == v1::REASON_REQUEST_IN_FLIGHT;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Session>> Session::Open(std::string_view address,
                                                       const ClientOptions& options) {
  absl::StatusOr<std::unique_ptr<Connection>> connection = Connection::Open(address);
  if (!connection.ok()) return connection.status();
  return std::shared_ptr<Session>(new Session(*std::move(connection), options));
}

Session::Session(std::unique_ptr<Connection> connection, const ClientOptions& options)
    : options_(options), connection_(std::move(connection)), id_prefix_(RandomPrefix()) {}

Session::~Session() {
  // gRPC would wait for threads that a child does not have.
  if (fork_mark_.InChild()) (void)connection_.release();
}

absl::Status Session::CheckProcess() const {
  if (!fork_mark_.InChild()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this client was made before a fork and works in the parent only");
}

std::string Session::RequestId(const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  return absl::StrCat(id_prefix_, absl::Hex(next_id_.fetch_add(1, std::memory_order_relaxed)));
}

Session::Attempts::Attempts(const Session& session, absl::Time deadline)
    : session_(session), give_up_(std::min(deadline, begin_ + kRepeatFor)) {}

bool Session::Attempts::Again(const absl::Status& status) {
  if (!MayGoAway(status) || !backoff_.Pause(give_up_)) return false;
  return !IsLostConnection(status) || session_.connection_->WaitForConnected(give_up_);
}

absl::Status Session::Attempts::Error(const absl::Status& last) const {
  const std::string& address = session_.connection_->address();
  const bool from_server = client::DetailOf(last).has_value();
  if (absl::IsDeadlineExceeded(last) && !from_server) {
    return absl::DeadlineExceededError(absl::StrCat("no answer from iovad at ", address, " in ",
                                                    absl::FormatDuration(absl::Now() - begin_),
                                                    "; it may still be done"));
  }
  if (absl::IsUnavailable(last) && !from_server) {
    return absl::UnavailableError(absl::StrCat(last.message(), "; given up after ",
                                               absl::FormatDuration(absl::Now() - begin_)));
  }
  return ToCore(last);
}

absl::StatusOr<std::string> Session::FdSocketPath(absl::Time deadline) {
  {
    const MutexLock lock(mu_);
    if (!fd_socket_path_.empty()) return fd_socket_path_;
  }
  const absl::StatusOr<v1::GetServerInfoResponse> info =
      Call(&Connection::GetServerInfo, v1::GetServerInfoRequest(), deadline);
  if (!info.ok()) return info.status();
  if (info->fd_socket().empty()) return absl::UnimplementedError("the server has no fd socket");
  const MutexLock lock(mu_);
  fd_socket_path_ = info->fd_socket();
  return fd_socket_path_;
}

void Session::ForgetFdSocketPath() {
  const MutexLock lock(mu_);
  fd_socket_path_.clear();
}

void Session::AddMirror(std::shared_ptr<MirrorRunner> mirror) {
  const MutexLock lock(mu_);
  mirrors_.push_back(std::move(mirror));
  has_mirrors_ = true;
}

void Session::RemoveMirror(const std::shared_ptr<MirrorRunner>& mirror) {
  const MutexLock lock(mu_);
  std::erase(mirrors_, mirror);
  has_mirrors_ = !mirrors_.empty();
}

void Session::AwaitMirrors(const std::string& uid, Revision revision, absl::Time deadline) {
  if (!has_mirrors_) return;
  const std::vector<std::shared_ptr<MirrorRunner>> mirrors = [this] {
    const MutexLock lock(mu_);
    return mirrors_;
  }();
  for (const auto& mirror : mirrors) mirror->AwaitOwn(uid, revision, deadline);
}

absl::StatusOr<std::string> Session::Deposit(FdKind kind, std::string_view name, int fd,
                                             absl::Time deadline) {
  return WithFds(deadline, [&](FdSocket& fds) { return fds.Deposit(kind, name, fd); });
}

absl::StatusOr<std::string> Session::Attest(absl::Time deadline) {
  auto attested = WithFds(deadline, [](FdSocket& fds) { return fds.Attest(); });
  if (!attested.ok()) return attested.status();
  return std::move(attested->handle);
}

}  // namespace iovad::client
