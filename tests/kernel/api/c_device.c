/* A VMM in C that owns a vhost-vdpa device and gives libiovad.so its descriptor.
 *
 * usage: c_device SOCKET DEVICE LOOK
 *
 * At each step `LOOK STEP` is run, a command that looks at what the device maps; a status
 * other than 0 ends the program. Steps: mapped, changed, without-server (here it ends the
 * server and starts it again), with-server, stopped. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/c/iovad.h"

#define PAGE 0x1000ull
#define RAM (256 * PAGE)
#define WAIT_S 60

static struct iovad_error error;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static int events[8];

static void Need(int result, const char* what) {
  if (result == 0) return;
  fprintf(stderr, "c_device: %s: %s: %s\n", what, iovad_reason_name(error.reason), error.message);
  exit(1);
}

static void Note(void* opaque, const struct iovad_relay_event* event) {
  (void)opaque;
  printf("event %u at revision %llu, %llu entries: %s\n", event->type,
         (unsigned long long)event->revision, (unsigned long long)event->entries, event->message);
  fflush(stdout);
  pthread_mutex_lock(&mutex);
  if (event->type < 8) ++events[event->type];
  pthread_cond_broadcast(&told);
  pthread_mutex_unlock(&mutex);
}

static void Await(int type, int times) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += WAIT_S;
  pthread_mutex_lock(&mutex);
  while (events[type] < times) {
    if (pthread_cond_timedwait(&told, &mutex, &end) == ETIMEDOUT) {
      fprintf(stderr, "c_device: event %d does not come\n", type);
      exit(1);
    }
  }
  pthread_mutex_unlock(&mutex);
}

static void Look(const char* look, const char* step) {
  char command[512];
  snprintf(command, sizeof(command), "%s %s", look, step);
  fflush(stdout);
  if (system(command) == 0) return;
  fprintf(stderr, "c_device: not as it should be: %s\n", step);
  exit(1);
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: c_device SOCKET DEVICE LOOK\n");
    return 2;
  }
  const char* const look = argv[3];
  const int ram = memfd_create("ram", MFD_CLOEXEC);
  if (ram < 0 || ftruncate(ram, RAM) != 0) return perror("ram"), 1;
  void* const hva = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, ram, 0);
  if (hva == MAP_FAILED) return perror("ram"), 1;
  memset(hva, 0x5a, RAM);
  const uint64_t base = (uint64_t)(uintptr_t)hva;
  const int fd = open(argv[2], O_RDWR | O_CLOEXEC);
  if (fd < 0) return perror(argv[2]), 1;

  struct iovad_client* client = NULL;
  struct iovad_space* space = NULL;
  struct iovad_relay* relay = NULL;
  Need(iovad_connect(argv[1], NULL, &client, &error), "connect");
  struct iovad_space_spec spec = {.struct_size = sizeof(spec), .name = "c"};
  Need(iovad_space_create(client, &spec, NULL, &space, &error), "create");
  Need(iovad_map_guest(space, 0, base, 16 * PAGE, IOVAD_READ_WRITE, NULL, NULL, &error), "map");
  struct iovad_relay_spec net = {
      .struct_size = sizeof(net), .device = "c-net0", .device_fd = fd, .on_event = Note};
  Need(iovad_relay_start(space, &net, &relay, &error), "relay");
  Await(IOVAD_RELAY_ATTACHED, 1);
  Look(look, "mapped");

  /* A change that returned is on the device. */
  Need(
      iovad_map_guest(space, 0x100000, base + 64 * PAGE, 32 * PAGE, IOVAD_READ, NULL, NULL, &error),
      "map more");
  Need(iovad_unmap_guest(space, 0, NULL, &error), "unmap");
  Look(look, "changed");

  Look(look, "without-server");
  Await(IOVAD_RELAY_ATTACHED, 2);
  Need(iovad_map_guest(space, 0, base, PAGE, IOVAD_READ_WRITE, NULL, NULL, &error), "map again");
  Look(look, "with-server");

  Need(iovad_relay_stop(relay, &error), "stop");
  Look(look, "stopped");
  /* The descriptor stayed the caller's. */
  if (fcntl(fd, F_GETFD) < 0) return perror("descriptor"), 1;
  iovad_space_close(space);
  iovad_client_close(client);
  return 0;
}
