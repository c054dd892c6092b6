// A way to a server that can be cut, while both ends live.
//
// Purpose. Listens on a Unix socket and carries what comes to another one, and back.
// What is on its way when it is cut is lost.
//
// Thread safety. One thread, but for `socket`.
//
// Example:
//   Cuttable way(daemon.socket());
//   Client::Connect(way.socket());
//   way.Cut();      // connections break, and none is made
//   way.Mend();
#ifndef IOVAD_TESTS_CLIENT_CUTTABLE_H_
#define IOVAD_TESTS_CLIENT_CUTTABLE_H_

#include <list>
#include <string>
#include <thread>
#include <utility>

#include "core/mutex.h"
#include "core/unique_fd.h"

namespace iovad {

class Cuttable {
 public:
  explicit Cuttable(std::string server);
  ~Cuttable();
  Cuttable(const Cuttable&) = delete;
  Cuttable& operator=(const Cuttable&) = delete;

  const std::string& socket() const { return socket_; }
  void Cut();
  void Mend();
  // What the server says gets lost from now on, and connections stay; until cut.
  void DropAnswers();
  // Nothing is carried any more, and connections stay; until mended.
  void Hold();

 private:
  enum class State { kOpen, kDeaf, kHeld, kCut };
  struct Pair {
    UniqueFd client;
    UniqueFd server;
  };
  void Carry();
  void Accept();
  // Moves what is there; false when the pair is over.
  static bool Move(int from, int to, bool drop);
  void Wake(State state);

  const std::string server_;
  const std::string socket_;
  UniqueFd listening_;
  UniqueFd wake_;
  Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kOpen;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  CondVar done_;
  bool handled_ ABSL_GUARDED_BY(mu_) = true;
  std::list<Pair> pairs_;  // of the thread
  std::thread thread_;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_CLIENT_CUTTABLE_H_
