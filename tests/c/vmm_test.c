/* What the SVQ code of a VMM does, with one call of iovad.h each, against a running iovad. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/c/harness.h"

#define RAM 0x7f7903e00000ull

static struct iovad_client* client;

static struct iovad_segment segments[8];
static struct iovad_translation result = {
    .struct_size = sizeof(result), .segments = segments, .capacity = 8};

static void* PointerTo(uint64_t hva) {
  return (void*)(uintptr_t)hva; /* NOLINT(performance-no-int-to-ptr): nobody reads there */
}

static struct iovad_mirror* NewMirror(struct iovad_space* space) {
  struct iovad_mirror* mirror = NULL;
  CHECK_OK(iovad_mirror_open(space, NULL, &mirror, &error));
  CHECK_OK(iovad_mirror_wait_live(mirror, LONG_MS, &error));
  return mirror;
}

/* Two sections of RAM, and a third over a part of the first one's host memory. */
static void UnmappingAnAliasLeavesWhatItAliased(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_mirror* mirror = NewMirror(space);
  uint64_t low = 0;
  uint64_t high = 0;
  uint64_t alias = 0;
  CHECK_OK(iovad_map_guest(space, 0, RAM, 0x80000000, IOVAD_READ_WRITE, NULL, &low, &error));
  CHECK_OK(iovad_map_guest(space, 0x100000000, RAM + 0x80000000, 0x1f80000000, IOVAD_READ_WRITE,
                           NULL, &high, &error));
  CHECK_OK(iovad_map_guest(space, 0xfeda0000, RAM + 0xa0000, 0x20000, IOVAD_READ_WRITE, NULL,
                           &alias, &error));
  CHECK(alias < low || alias >= low + 0x80000000);
  /* By GPA each is its own; by HVA the one that reaches farthest answers. */
  CHECK_EQ(iovad_translate_gpa(mirror, 0xfeda0010, 16, IOVAD_WRITE, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].iova, alias + 0x10);
  CHECK_EQ(segments[0].hva, RAM + 0xa0010);
  CHECK_EQ(segments[0].is_guest, 1);
  CHECK_EQ(iovad_translate_gpa(mirror, 0xa0010, 16, IOVAD_WRITE, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].iova, low + 0xa0010);
  CHECK_EQ(iovad_translate_hva(mirror, RAM + 0xa0010, 0x20000, IOVAD_WRITE, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].iova, low + 0xa0010);
  CHECK_EQ(iovad_translate_iova(mirror, high, 1, 0, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].gpa, 0x100000000);

  CHECK_OK(iovad_unmap_guest(space, 0xfeda0000, NULL, &error));
  CHECK_EQ(iovad_translate_gpa(mirror, 0xfeda0010, 16, 0, &result), IOVAD_MISS);
  CHECK_EQ(result.fault_address, 0xfeda0010);
  CHECK_EQ(iovad_translate_iova(mirror, alias, 1, 0, &result), IOVAD_MISS);
  CHECK_EQ(iovad_translate_gpa(mirror, 0xa0010, 16, IOVAD_WRITE, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].iova, low + 0xa0010);
  CHECK_FAILS(iovad_unmap_guest(space, 0xfeda0000, NULL, &error), IOVAD_REASON_MAPPING_NOT_FOUND);
  CHECK_FAILS(iovad_map_guest(space, 0x1000, RAM, PAGE, IOVAD_READ, NULL, NULL, &error),
              IOVAD_REASON_GPA_OVERLAP);
  CHECK_FAILS(iovad_map_guest(space, 0, RAM, 0x80000000, IOVAD_READ_WRITE, NULL, NULL, &error),
              IOVAD_REASON_MAPPING_EXISTS);
  iovad_mirror_close(mirror);
  iovad_space_close(space);
}

static void HostOnlyMemoryIsMappedAndUnmapped(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_mirror* mirror = NewMirror(space);
  uint64_t iova = 0;
  CHECK_OK(iovad_map_host(space, RAM, 2 * PAGE, IOVAD_READ, NULL, &iova, &error));
  CHECK_EQ(iovad_translate_hva(mirror, RAM + PAGE, PAGE, IOVAD_READ, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].iova, iova + PAGE);
  CHECK_EQ(segments[0].is_guest, 0);
  CHECK_EQ(iovad_translate_hva(mirror, RAM, 1, IOVAD_WRITE, &result), IOVAD_DENIED);
  CHECK_FAILS(iovad_map_host(space, RAM, PAGE, IOVAD_READ, NULL, NULL, &error),
              IOVAD_REASON_HOST_HVA_OVERLAP);
  CHECK_FAILS(iovad_map_host(space, RAM + 1, PAGE, IOVAD_READ, NULL, NULL, &error),
              IOVAD_REASON_UNALIGNED);
  CHECK_OK(iovad_unmap_host(space, iova, NULL, &error));
  CHECK_EQ(iovad_translate_hva(mirror, RAM, 1, 0, &result), IOVAD_MISS);
  CHECK_FAILS(iovad_unmap_host(space, iova, NULL, &error), IOVAD_REASON_MAPPING_NOT_FOUND);
  iovad_mirror_close(mirror);
  iovad_space_close(space);
}

static void ABufferMaySpanSections(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_mirror* mirror = NewMirror(space);
  uint64_t iovas[3];
  for (uint64_t i = 0; i < 3; ++i) {
    CHECK_OK(iovad_map_guest(space, i * PAGE, RAM + i * PAGE, PAGE,
                             i == 2 ? IOVAD_READ : IOVAD_READ_WRITE, NULL, &iovas[i], &error));
  }
  CHECK_EQ(iovad_translate_gpa(mirror, 0x800, 2 * PAGE, IOVAD_READ, &result), IOVAD_WHOLE);
  CHECK_EQ(result.count, 3);
  CHECK_EQ(result.done, 2 * PAGE);
  CHECK_EQ(result.revision, 4);
  CHECK_EQ(segments[0].iova, iovas[0] + 0x800);
  CHECK_EQ(segments[0].size, 0x800);
  CHECK_EQ(segments[2].iova, iovas[2]);
  CHECK_EQ(segments[2].access, IOVAD_READ);
  CHECK_EQ(iovad_translate_gpa(mirror, 0x800, 2 * PAGE, IOVAD_WRITE, &result), IOVAD_DENIED);
  CHECK_EQ(result.fault_address, 2 * PAGE);
  CHECK_EQ(result.done, 0x1800);
  CHECK_EQ(iovad_translate_gpa(mirror, 2 * PAGE, 2 * PAGE, 0, &result), IOVAD_MISS);
  CHECK_EQ(result.fault_address, 3 * PAGE);

  struct iovad_translation small = {
      .struct_size = sizeof(small), .segments = segments, .capacity = 1};
  CHECK_EQ(iovad_translate_gpa(mirror, 0x800, 2 * PAGE, 0, &small), IOVAD_NO_ROOM);
  CHECK_EQ(small.done, 0x800);
  CHECK_EQ(small.fault_address, PAGE);

  const uint64_t gpas[] = {0x10, 5, 0x1ff0};
  const struct iovec iov[] = {{.iov_base = PointerTo(RAM + 0x10), .iov_len = 0x20},
                              {.iov_base = NULL, .iov_len = 0},
                              {.iov_base = PointerTo(RAM + 0x1ff0), .iov_len = 0x20}};
  for (int by_gpa = 0; by_gpa < 2; ++by_gpa) {
    const uint64_t* const guest = by_gpa ? gpas : NULL;
    CHECK_EQ(iovad_translate_iovec(mirror, iov, guest, 3, IOVAD_READ, &result), IOVAD_WHOLE);
    CHECK_EQ(result.count, 3);
    CHECK_EQ(result.done, 0x40);
    CHECK_EQ(segments[0].iova, iovas[0] + 0x10);
    CHECK_EQ(segments[0].piece, 0);
    CHECK_EQ(segments[1].piece, 2);
    CHECK_EQ(segments[1].iova, iovas[1] + 0xff0);
    CHECK_EQ(segments[2].iova, iovas[2]);
    CHECK_EQ(iovad_translate_iovec(mirror, iov, guest, 3, IOVAD_WRITE, &result), IOVAD_DENIED);
    CHECK_EQ(result.fault_piece, 2);
    CHECK_EQ(result.fault_address, by_gpa ? 2 * PAGE : RAM + 2 * PAGE);
    CHECK_EQ(iovad_translate_iovec(mirror, iov, guest, 3, 0, &small), IOVAD_NO_ROOM);
    CHECK_EQ(small.fault_piece, 2);
  }
  CHECK_EQ(iovad_translate_iovec(mirror, NULL, NULL, 0, 0, &result), IOVAD_WHOLE);
  CHECK_EQ(result.count, 0);

  /* What is no question. */
  struct iovad_translation unset = {.segments = segments, .capacity = 1};
  CHECK_EQ(iovad_translate_gpa(mirror, 0, 1, 0, &unset), -1);
  CHECK_EQ(iovad_translate_gpa(mirror, 0, 1, 0, NULL), -1);
  CHECK_EQ(iovad_translate_gpa(NULL, 0, 1, 0, &result), -1);
  CHECK_EQ(iovad_translate_gpa(mirror, 0, 1, 4, &result), -1);
  CHECK_EQ(iovad_translate_gpa(mirror, 0, 0, 0, &result), -1);
  CHECK_EQ(iovad_translate_iovec(mirror, NULL, NULL, 1, 0, &result), -1);
  CHECK_EQ(iovad_translate_gpa(mirror, UINT64_MAX, 2, 0, &result), IOVAD_MISS);
  iovad_mirror_close(mirror);
  iovad_space_close(space);
}

static void ShadowVirtqueuesArePlacedAndFreed(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_svq_spec wanted[] = {
      {.struct_size = sizeof(wanted[0]), .queue_index = 0, .queue_size = 256},
      {.struct_size = sizeof(wanted[0]),
       .queue_index = 2,
       .queue_size = 64,
       .format = IOVAD_RING_PACKED,
       .flags = IOVAD_SVQ_CONTROL},
  };
  struct iovad_svq queues[2] = {{.struct_size = sizeof(queues[0])},
                                {.struct_size = sizeof(queues[0])}};
  CHECK_OK(iovad_alloc_svqs(space, wanted, queues, 2, NULL, &error));
  CHECK_EQ(queues[0].queue_size, 256);
  CHECK_EQ(queues[0].format, IOVAD_RING_SPLIT);
  CHECK_EQ(queues[0].driver, queues[0].desc + 256 * 16);
  CHECK(queues[0].device != 0 && queues[0].memory_id != 0);
  CHECK_EQ(queues[1].flags, IOVAD_SVQ_CONTROL);
  CHECK(queues[1].control_out != 0 && queues[1].control_in != 0);
  /* The server's memory is where it says. */
  int fd = -1;
  CHECK_OK(iovad_get_memory_fd(space, queues[0].memory_id, NULL, &fd, &error));
  void* const rings =
      mmap(NULL, 0x3000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)queues[0].desc_offset);
  CHECK(rings != MAP_FAILED);
  memset(rings, 1, 0x3000);
  CHECK_EQ(munmap(rings, 0x3000), 0);
  close(fd);

  CHECK_OK(iovad_free_svqs(space, &queues[0].id, 1, NULL, &error));
  CHECK_FAILS(iovad_free_svqs(space, &queues[0].id, 1, NULL, &error), IOVAD_REASON_SVQ_NOT_FOUND);
  CHECK_OK(iovad_free_svqs(space, NULL, 0, NULL, &error));
  struct iovad_space_info info = {.struct_size = sizeof(info)};
  CHECK_OK(iovad_space_get(space, NULL, &info, &error));
  CHECK_EQ(info.mapping_count, 0);

  /* In memory of this process. */
  wanted[0].flags = IOVAD_SVQ_OWN_MEMORY;
  wanted[0].driver_hva = RAM;
  wanted[0].device_hva = RAM + 0x10000;
  CHECK_OK(iovad_alloc_svqs(space, wanted, queues, 1, NULL, &error));
  struct iovad_mirror* mirror = NewMirror(space);
  CHECK_EQ(iovad_translate_hva(mirror, RAM, 1, IOVAD_READ, &result), IOVAD_WHOLE);
  CHECK_EQ(segments[0].iova, queues[0].desc);
  iovad_mirror_close(mirror);

  wanted[1].queue_size = 65;
  CHECK_FAILS(iovad_alloc_svqs(space, wanted, queues, 2, NULL, &error),
              IOVAD_REASON_MAPPING_EXISTS);
  wanted[0].flags = 0;
  wanted[1].format = IOVAD_RING_SPLIT;
  CHECK_FAILS(iovad_alloc_svqs(space, wanted, queues, 2, NULL, &error),
              IOVAD_REASON_INVALID_QUEUE_SIZE);
  CHECK_EQ(error.op_index, 1);
  wanted[1].struct_size -= 8;
  CHECK_FAILS(iovad_alloc_svqs(space, wanted, queues, 2, NULL, &error), IOVAD_REASON_INVALID_VALUE);
  iovad_space_close(space);
}

static void ChangesOfOthersAreWaitedFor(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_mirror* mirror = NewMirror(space);
  struct iovad_client* other = NewClient();
  struct iovad_space* theirs = NULL;
  struct iovad_space_info info = {.struct_size = sizeof(info)};
  CHECK_OK(iovad_space_get(space, NULL, &info, &error));
  CHECK_OK(iovad_space_open(other, info.name, info.uid, NULL, &theirs, &error));
  struct iovad_op op = {.struct_size = sizeof(op),
                        .kind = IOVAD_OP_MAP_GUEST,
                        .hva = RAM,
                        .size = PAGE,
                        .access = IOVAD_READ};
  uint64_t revision = 0;
  CHECK_OK(iovad_update(theirs, &op, 1, NULL, &revision, &error));
  CHECK_OK(iovad_mirror_wait_for(mirror, revision, LONG_MS, &error));
  CHECK_EQ(iovad_translate_gpa(mirror, 0, 1, IOVAD_READ, &result), IOVAD_WHOLE);
  CHECK_EQ(iovad_mirror_wait_for(mirror, revision + 1, 20, &error), -1);
  CHECK_EQ(error.code, IOVAD_DEADLINE_EXCEEDED);
  CHECK_OK(iovad_space_delete(theirs, NULL, &error));
  CHECK_FAILS(iovad_mirror_wait_for(mirror, revision + 9, LONG_MS, &error),
              IOVAD_REASON_SPACE_NOT_FOUND);
  iovad_space_close(theirs);
  iovad_client_close(other);
  iovad_mirror_close(mirror);
  iovad_space_close(space);
}

static uint32_t StateOf(const struct iovad_mirror* mirror) {
  struct iovad_mirror_status status = {.struct_size = sizeof(status)};
  CHECK_OK(iovad_mirror_get_status(mirror, &status, &error));
  CHECK_EQ(status.state == IOVAD_MIRROR_LIVE, status.why[0] == '\0');
  return status.state;
}
static int IsDisconnected(void* mirror) { return StateOf(mirror) == IOVAD_MIRROR_DISCONNECTED; }

static void AMirrorAnswersWhileTheServerIsAway(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_mirror* mirror = NewMirror(space);
  CHECK_OK(iovad_map_guest(space, 0, RAM, PAGE, IOVAD_READ, NULL, NULL, &error));
  KillDaemon();
  Await(IsDisconnected, mirror);
  CHECK_EQ(iovad_translate_gpa(mirror, 0, PAGE, IOVAD_READ, &result), IOVAD_WHOLE);
  CHECK_EQ(result.revision, 2);
  RestartDaemon();
  /* Asked again until the server is back, and done once. */
  CHECK_OK(iovad_map_guest(space, PAGE, RAM + PAGE, PAGE, IOVAD_READ, NULL, NULL, &error));
  CHECK_OK(iovad_mirror_wait_live(mirror, LONG_MS, &error));
  CHECK_EQ(iovad_translate_gpa(mirror, PAGE, PAGE, IOVAD_READ, &result), IOVAD_WHOLE);
  CHECK_EQ(result.revision, 3);
  iovad_mirror_close(mirror);
  iovad_space_close(space);
}

/* Threads that share all handles. */
enum { kThreads = 4, kRounds = 40 };
struct shared {
  struct iovad_space* space;
  struct iovad_mirror* mirror;
  uint64_t number;
};

static void* MapAndLookUp(void* argument) {
  const struct shared* const shared = argument;
  struct iovad_segment segment;
  struct iovad_translation found = {
      .struct_size = sizeof(found), .segments = &segment, .capacity = 1};
  struct iovad_error own = {.struct_size = sizeof(own)};
  const uint64_t gpa = shared->number * 16 * PAGE;
  for (int i = 0; i < kRounds; ++i) {
    uint64_t iova = 0;
    CHECK_EQ(iovad_map_guest(shared->space, gpa, RAM + gpa, PAGE, IOVAD_READ, NULL, &iova, &own),
             0);
    CHECK_EQ(iovad_translate_gpa(shared->mirror, gpa, PAGE, IOVAD_READ, &found), IOVAD_WHOLE);
    CHECK_EQ(segment.iova, iova);
    CHECK_EQ(iovad_translate_hva(shared->mirror, RAM + gpa, PAGE, IOVAD_READ, &found), IOVAD_WHOLE);
    CHECK_EQ(iovad_map_guest(shared->space, gpa, RAM + gpa, PAGE, IOVAD_READ, NULL, &iova, &own),
             -1);
    CHECK_EQ(own.reason, IOVAD_REASON_MAPPING_EXISTS);
    CHECK_EQ(iovad_unmap_guest(shared->space, gpa, NULL, &own), 0);
    CHECK_EQ(iovad_translate_gpa(shared->mirror, gpa, PAGE, IOVAD_READ, &found), IOVAD_MISS);
  }
  return NULL;
}

static void ManyThreadsShareHandles(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_mirror* mirror = NewMirror(space);
  struct shared shared[kThreads];
  pthread_t threads[kThreads];
  for (uint64_t i = 0; i < kThreads; ++i) {
    shared[i].space = space;
    shared[i].mirror = mirror;
    shared[i].number = i;
    CHECK_EQ(pthread_create(&threads[i], NULL, MapAndLookUp, &shared[i]), 0);
  }
  for (int i = 0; i < kThreads; ++i) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  iovad_mirror_close(mirror);
  iovad_space_close(space);
}

static struct iovad_mirror* handled;
static volatile sig_atomic_t outcome_in_handler = -1;
static void LookUp(int signal_number) {
  struct iovad_segment segment;
  struct iovad_translation found = {
      .struct_size = sizeof(found), .segments = &segment, .capacity = 1};
  (void)signal_number;
  /* NOLINTNEXTLINE(bugprone-signal-handler) */
  outcome_in_handler = iovad_translate_gpa(handled, 0, PAGE, IOVAD_READ, &found);
}

static void LooksUpInASignalHandlerAndInAChild(void) {
  struct iovad_space* space = NewSpace(client);
  handled = NewMirror(space);
  CHECK_OK(iovad_map_guest(space, 0, RAM, PAGE, IOVAD_READ, NULL, NULL, &error));
  /* NOLINTNEXTLINE(bugprone-signal-handler): that this may be done is what is tested */
  CHECK(signal(SIGUSR1, LookUp) != SIG_ERR);
  CHECK_EQ(raise(SIGUSR1), 0);
  CHECK_EQ(outcome_in_handler, IOVAD_WHOLE);
  const pid_t child = fork();
  if (child == 0) {
    struct iovad_mirror_status status = {.struct_size = sizeof(status)};
    outcome_in_handler = -1;
    LookUp(0);
    ExecAs(outcome_in_handler == IOVAD_WHOLE &&
           iovad_mirror_get_status(handled, &status, NULL) == 0 &&
           status.state == IOVAD_MIRROR_DISCONNECTED);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
  iovad_mirror_close(handled);
  iovad_space_close(space);
}

int main(void) {
  StartDaemon("--state-dir");
  client = NewClient();
  RUN(UnmappingAnAliasLeavesWhatItAliased);
  RUN(HostOnlyMemoryIsMappedAndUnmapped);
  RUN(ABufferMaySpanSections);
  RUN(ShadowVirtqueuesArePlacedAndFreed);
  RUN(ChangesOfOthersAreWaitedFor);
  RUN(AMirrorAnswersWhileTheServerIsAway);
  RUN(ManyThreadsShareHandles);
  RUN(LooksUpInASignalHandlerAndInAChild);
  iovad_client_close(client);
  return Finish();
}
