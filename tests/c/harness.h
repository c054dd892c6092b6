/* What the tests in C share: an iovad of their own, and checks that end the program.
 *
 * Example:
 *   static void MapsAndUnmaps(void) { CHECK_OK(iovad_map_guest(…, &error)); }
 *   int main(void) {
 *     StartDaemon("--ephemeral");
 *     RUN(MapsAndUnmaps);
 *     return Finish();
 *   }
 */
#ifndef IOVAD_TESTS_C_HARNESS_H_
#define IOVAD_TESTS_C_HARNESS_H_

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/c/iovad.h"

#define PAGE 0x1000ull
/* Long enough for whatever a loaded machine makes of it. */
#define LONG_MS 120000

/* Of the last call that was to fail, or did. */
extern struct iovad_error error;

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                \
    }                                                                         \
  } while (0)

#define CHECK_EQ(one, other)                                                                \
  do {                                                                                      \
    const unsigned long long a_ = (unsigned long long)(one);                                \
    const unsigned long long b_ = (unsigned long long)(other);                              \
    if (a_ != b_) {                                                                         \
      fprintf(stderr, "%s:%d: %s is %#llx, not %#llx\n", __FILE__, __LINE__, #one, a_, b_); \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)

#define CHECK_OK(call)                                                                      \
  do {                                                                                      \
    if ((call) != 0) {                                                                      \
      fprintf(stderr, "%s:%d: %s: %s %s %s\n", __FILE__, __LINE__, #call,                   \
              iovad_code_name(error.code), iovad_reason_name(error.reason), error.message); \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)

/* The call fails, for this reason and with words for people. */
#define CHECK_FAILS(call, why)                                 \
  do {                                                         \
    CHECK_EQ((call), -1);                                      \
    CHECK_EQ(error.reason, why);                               \
    CHECK(error.code != IOVAD_OK && error.message[0] != '\0'); \
  } while (0)

#define RUN(test)          \
  do {                     \
    printf("%s\n", #test); \
    fflush(stdout);        \
    test();                \
  } while (0)

/* Before the first client: forks. `keeps`: "--ephemeral", or "--state-dir". */
void StartDaemon(const char* keeps);
/* Kills it, and starts another one with its state. */
void KillDaemon(void);
void RestartDaemon(void);
const char* Socket(void);
/* Ends it, cleanly. For main to return. */
int Finish(void);

/* A client, and a space of a name that no other test has. */
struct iovad_client* NewClient(void);
struct iovad_space* NewSpace(struct iovad_client* client);

/* Ends a forked child: by exec, as a VMM would, and so that nobody looks for leaks in it. */
void ExecAs(int success);

/* Waits until `condition(argument)`. */
void Await(int (*condition)(void* argument), void* argument);

#endif /* IOVAD_TESTS_C_HARNESS_H_ */
