/* A relay through iovad.h, at whose end is a table instead of a device. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/c/harness.h"

#define HVA 0x7f0000000000ull

static struct iovad_client* client;

/* A device as the kernel's: ranges that are mapped. The callbacks come from threads of the
 * library's, the checks from the test's. */
struct device {
  pthread_mutex_t mutex;
  struct iovad_iotlb_message entries[64];
  int count;
  int in_batch;
  int refuse; /* the next UPDATEs, with this errno */
  int undone; /* messages that took something back */
  int events[8];
  char last_words[256];
};

static int Apply(void* opaque, const struct iovad_iotlb_message* message) {
  struct device* const device = opaque;
  int refused = 0;
  pthread_mutex_lock(&device->mutex);
  CHECK_EQ(message->struct_size, sizeof(*message));
  CHECK_EQ(message->asid, 0);
  if (message->is_undo) ++device->undone;
  switch (message->type) {
    case IOVAD_IOTLB_BATCH_BEGIN:
      CHECK_EQ(device->in_batch, 0);
      device->in_batch = 1;
      break;
    case IOVAD_IOTLB_BATCH_END:
      CHECK_EQ(device->in_batch, 1);
      device->in_batch = 0;
      break;
    case IOVAD_IOTLB_UPDATE:
      CHECK_EQ(device->in_batch, 1);
      refused = device->refuse;
      if (refused == 0) device->entries[device->count++] = *message;
      break;
    case IOVAD_IOTLB_INVALIDATE:
      if (message->size == 0) {
        device->count = 0;
        break;
      }
      for (int i = 0; i < device->count; ++i) {
        if (device->entries[i].iova != message->iova) continue;
        CHECK_EQ(device->entries[i].size, message->size);
        device->entries[i] = device->entries[--device->count];
        break;
      }
      break;
    default:
      CHECK(0);
  }
  pthread_mutex_unlock(&device->mutex);
  return refused;
}

static void Note(void* opaque, const struct iovad_relay_event* event) {
  struct device* const device = opaque;
  pthread_mutex_lock(&device->mutex);
  CHECK_EQ(event->struct_size, sizeof(*event));
  CHECK(event->type < 8);
  ++device->events[event->type];
  snprintf(device->last_words, sizeof(device->last_words), "%s", event->message);
  pthread_mutex_unlock(&device->mutex);
}

struct wanted {
  struct device* device;
  int type;
  int times;
};
static int HasHappened(void* argument) {
  const struct wanted* const wanted = argument;
  pthread_mutex_lock(&wanted->device->mutex);
  const int times = wanted->device->events[wanted->type];
  pthread_mutex_unlock(&wanted->device->mutex);
  return times >= wanted->times;
}
static void AwaitEvent(struct device* device, int type, int times) {
  struct wanted wanted = {.device = device, .type = type, .times = times};
  Await(HasHappened, &wanted);
}

static int CountOf(struct device* device) {
  pthread_mutex_lock(&device->mutex);
  const int count = device->count;
  pthread_mutex_unlock(&device->mutex);
  return count;
}

/* The server knows a moment later than the device that it is in step. */
static int IsLive(void* argument) {
  struct iovad_space_info info = {.struct_size = sizeof(info)};
  CHECK_OK(iovad_space_get(argument, NULL, &info, &error));
  CHECK_EQ(info.attachment_count, 1);
  return info.live_count == 1;
}

static void ADeviceIsKeptInStepByACallback(void) {
  static struct device device = {.mutex = PTHREAD_MUTEX_INITIALIZER};
  struct iovad_space* space = NewSpace(client);
  struct iovad_relay* relay = NULL;
  uint64_t iova = 0;
  CHECK_OK(iovad_map_guest(space, 0, HVA, PAGE, IOVAD_READ, NULL, &iova, &error));
  const struct iovad_relay_spec spec = {.struct_size = sizeof(spec),
                                        .device = "net0",
                                        .device_fd = -1,
                                        .apply = Apply,
                                        .on_event = Note,
                                        .opaque = &device};
  CHECK_OK(iovad_relay_start(space, &spec, &relay, &error));
  AwaitEvent(&device, IOVAD_RELAY_ATTACHED, 1);
  /* What was mapped before, with this process's own address. */
  CHECK_EQ(CountOf(&device), 1);
  CHECK_EQ(device.entries[0].iova, iova);
  CHECK_EQ(device.entries[0].uaddr, HVA);
  CHECK_EQ(device.entries[0].access, IOVAD_READ);
  Await(IsLive, space);

  /* A change that returned is on the device. */
  CHECK_OK(iovad_map_guest(space, PAGE, HVA + PAGE, PAGE, IOVAD_READ_WRITE, NULL, NULL, &error));
  CHECK_EQ(CountOf(&device), 2);
  CHECK_OK(iovad_unmap_guest(space, 0, NULL, &error));
  CHECK_EQ(CountOf(&device), 1);

  /* What the device refuses is taken back, and the caller is told. */
  pthread_mutex_lock(&device.mutex);
  device.refuse = ENOSPC;
  pthread_mutex_unlock(&device.mutex);
  CHECK_FAILS(iovad_map_guest(space, 0, HVA, PAGE, IOVAD_READ, NULL, NULL, &error),
              IOVAD_REASON_DEVICE_ERROR);
  CHECK_EQ(error.os_errno, ENOSPC);
  CHECK(strstr(error.message, "net0") != NULL);
  AwaitEvent(&device, IOVAD_RELAY_REFUSED, 1);
  pthread_mutex_lock(&device.mutex);
  device.refuse = 0;
  pthread_mutex_unlock(&device.mutex);
  CHECK_EQ(CountOf(&device), 1);
  CHECK_OK(iovad_map_guest(space, 0, HVA, PAGE, IOVAD_READ, NULL, NULL, &error));
  CHECK_EQ(CountOf(&device), 2);

  /* Through a restart of the server it has what it has. */
  KillDaemon();
  AwaitEvent(&device, IOVAD_RELAY_DISCONNECTED, 1);
  CHECK_EQ(CountOf(&device), 2);
  RestartDaemon();
  AwaitEvent(&device, IOVAD_RELAY_ATTACHED, 2);
  CHECK_OK(iovad_map_guest(space, 2 * PAGE, HVA + 2 * PAGE, PAGE, IOVAD_READ, NULL, NULL, &error));
  CHECK_EQ(CountOf(&device), 3);

  CHECK_OK(iovad_relay_stop(relay, &error));
  CHECK_EQ(device.count, 0);
  CHECK_EQ(device.in_batch, 0);
  CHECK_EQ(device.events[IOVAD_RELAY_DETACHED], 1);
  struct iovad_space_info info = {.struct_size = sizeof(info)};
  CHECK_OK(iovad_space_get(space, NULL, &info, &error));
  CHECK_EQ(info.attachment_count, 0);
  iovad_space_close(space);
}

static void WhatCannotGoOnSaysWhy(void) {
  static struct device device = {.mutex = PTHREAD_MUTEX_INITIALIZER};
  struct iovad_space* space = NewSpace(client);
  struct iovad_relay* relay = NULL;
  CHECK_OK(iovad_map_guest(space, 0, HVA, 2 * PAGE, IOVAD_READ, NULL, NULL, &error));
  CHECK_OK(iovad_map_guest(space, 4 * PAGE, HVA, PAGE, IOVAD_READ, NULL, NULL, &error));
  /* More than the device takes. */
  const struct iovad_relay_spec spec = {.struct_size = sizeof(spec),
                                        .device = "net1",
                                        .device_fd = -1,
                                        .apply = Apply,
                                        .entry_budget = 1,
                                        .on_event = Note,
                                        .opaque = &device};
  CHECK_OK(iovad_relay_start(space, &spec, &relay, &error));
  AwaitEvent(&device, IOVAD_RELAY_FAILED, 1);
  CHECK(device.last_words[0] != '\0');
  CHECK_FAILS(iovad_relay_stop(relay, &error), IOVAD_REASON_ENTRY_BUDGET);
  CHECK_EQ(device.count, 0);
  iovad_space_close(space);
}

static void WhatIsNoDeviceIsRefused(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_relay* relay = NULL;
  struct iovad_relay_spec spec = {.struct_size = sizeof(spec), .device = "net2", .device_fd = -1};
  CHECK_FAILS(iovad_relay_start(space, &spec, &relay, &error), IOVAD_REASON_INVALID_VALUE);
  spec.device_fd = memfd_create("no device", MFD_CLOEXEC);
  CHECK_FAILS(iovad_relay_start(space, &spec, &relay, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_EQ(lseek(spec.device_fd, 0, SEEK_CUR), 0); /* still open */
  spec.apply = Apply;
  CHECK_FAILS(iovad_relay_start(space, &spec, &relay, &error), IOVAD_REASON_INVALID_VALUE);
  close(spec.device_fd);
  spec.device_fd = -1;
  spec.device = NULL;
  CHECK_FAILS(iovad_relay_start(space, &spec, &relay, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_FAILS(iovad_relay_start(space, NULL, &relay, &error), IOVAD_REASON_INVALID_VALUE);
  iovad_space_close(space);
}

int main(void) {
  StartDaemon("--state-dir");
  client = NewClient();
  RUN(ADeviceIsKeptInStepByACallback);
  RUN(WhatCannotGoOnSaysWhy);
  RUN(WhatIsNoDeviceIsRefused);
  iovad_client_close(client);
  return Finish();
}
