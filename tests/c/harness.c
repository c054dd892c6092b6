#define _GNU_SOURCE
#include "tests/c/harness.h"

#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct iovad_error error = {.struct_size = sizeof(error)};

static char folder[64];
static char socket_path[96];
static char state_folder[96];
static char keeps_what[16];
static pid_t daemon_pid = -1;

/* However the program ends. */
static void KillAndClean(void) {
  char command[128];
  if (daemon_pid > 0) kill(daemon_pid, SIGKILL);
  snprintf(command, sizeof(command), "rm -rf %s", folder);
  if (folder[0] != '\0' && system(command) != 0) fprintf(stderr, "%s failed\n", command);
}

static void Spawn(void) {
  const int has_state = strcmp(keeps_what, "--state-dir") == 0;
  char* words[] = {IOVAD_PROGRAM,
                   "--socket",
                   socket_path,
                   "--log-level",
                   "error",
                   keeps_what,
                   has_state ? state_folder : NULL,
                   NULL};
  CHECK_EQ(posix_spawn(&daemon_pid, IOVAD_PROGRAM, NULL, NULL, words, environ), 0);
}

void StartDaemon(const char* keeps) {
  snprintf(folder, sizeof(folder), "/tmp/iovad-c-XXXXXX");
  CHECK(mkdtemp(folder) != NULL);
  snprintf(socket_path, sizeof(socket_path), "%s/iovad.sock", folder);
  snprintf(state_folder, sizeof(state_folder), "%s/state", folder);
  snprintf(keeps_what, sizeof(keeps_what), "%s", keeps);
  atexit(KillAndClean);
  Spawn();
}

void KillDaemon(void) {
  CHECK_EQ(kill(daemon_pid, SIGKILL), 0);
  CHECK(waitpid(daemon_pid, NULL, 0) == daemon_pid);
  daemon_pid = -1;
}

void RestartDaemon(void) { Spawn(); }

const char* Socket(void) { return socket_path; }

int Finish(void) {
  int status = -1;
  CHECK_EQ(kill(daemon_pid, SIGTERM), 0);
  CHECK(waitpid(daemon_pid, &status, 0) == daemon_pid);
  daemon_pid = -1;
  CHECK_EQ(status, 0);
  puts("passed");
  return 0;
}

struct iovad_client* NewClient(void) {
  const struct iovad_client_options options = {.struct_size = sizeof(options),
                                               .timeout_ms = LONG_MS};
  struct iovad_client* client = NULL;
  CHECK_OK(iovad_connect(Socket(), &options, &client, &error));
  CHECK_OK(iovad_wait_until_serving(client, LONG_MS, &error));
  return client;
}

struct iovad_space* NewSpace(struct iovad_client* client) {
  static int number = 0;
  char name[16];
  struct iovad_space* space = NULL;
  struct iovad_space_spec spec = {.struct_size = sizeof(spec), .name = name};
  snprintf(name, sizeof(name), "vm%d", ++number);
  CHECK_OK(iovad_space_create(client, &spec, NULL, &space, &error));
  return space;
}

void ExecAs(int success) {
  const char* const program = success ? "true" : "false";
  execlp(program, program, (char*)NULL);
  _exit(1);
}

void Await(int (*condition)(void* argument), void* argument) {
  const struct timespec pause = {.tv_nsec = 1000000};
  for (int i = 0; !condition(argument); ++i) {
    CHECK(i < LONG_MS);
    nanosleep(&pause, NULL);
  }
}
