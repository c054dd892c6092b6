/* Calls through libiovad.so, for mirror_bench to set beside its own: a process of its own,
 * since a program has the messages of the API once.
 *
 * usage: c_caller SOCKET SPACE
 *
 * Says "ready" when it has a mirror of the space, and answers on standard output:
 *   wait REVISION   "ok" when the mirror is there
 *   vec COUNT       and COUNT numbers of 64 bits in binary, GPAs, then as many HVAs:
 *                   nanoseconds a segment, by GPA and by HVA, of buffers of 16 pieces
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/c/iovad.h"

enum { kPieces = 16, kBytes = 256 };

static struct iovad_error error = {.struct_size = sizeof(error)};

static void Must(int result) {
  if (result >= 0) return;
  fprintf(stderr, "c_caller: %s\n", error.message);
  exit(1);
}

/* The thread's own processor time, as in the benchmark. */
static uint64_t Now(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t* ReadNumbers(size_t count) {
  uint64_t* const numbers = malloc(count * sizeof(*numbers));
  if (numbers == NULL || fread(numbers, sizeof(*numbers), count, stdin) != count) exit(1);
  return numbers;
}

static double TimeVectors(const struct iovad_mirror* mirror, const uint64_t* gpas,
                          const uint64_t* hvas, size_t count) {
  struct iovad_segment segments[kPieces];
  struct iovad_translation result = {
      .struct_size = sizeof(result), .segments = segments, .capacity = kPieces};
  struct iovec iov[kPieces];
  const uint64_t begin = Now();
  for (size_t at = 0; at + kPieces <= count; at += kPieces) {
    for (size_t i = 0; i < kPieces; ++i) {
      /* NOLINTNEXTLINE(performance-no-int-to-ptr): nobody reads there */
      iov[i].iov_base = (void*)(uintptr_t)hvas[at + i];
      iov[i].iov_len = kBytes;
    }
    const uint64_t* const guest = gpas != NULL ? gpas + at : NULL;
    if (iovad_translate_iovec(mirror, iov, guest, kPieces, IOVAD_READ, &result) != IOVAD_WHOLE) {
      fprintf(stderr, "c_caller: look-ups missed\n");
      exit(1);
    }
  }
  return (double)(Now() - begin) / (double)count;
}

int main(int argc, char** argv) {
  struct iovad_client* client = NULL;
  struct iovad_space* space = NULL;
  struct iovad_mirror* mirror = NULL;
  if (argc != 3) return 2;
  Must(iovad_connect(argv[1], NULL, &client, &error));
  Must(iovad_space_open(client, argv[2], NULL, NULL, &space, &error));
  Must(iovad_mirror_open(space, NULL, &mirror, &error));
  Must(iovad_mirror_wait_live(mirror, -1, &error));
  puts("ready");
  fflush(stdout);
  char what[8];
  uint64_t number;
  while (scanf("%7s %" SCNu64, what, &number) == 2 && getchar() == '\n') {
    if (strcmp(what, "wait") == 0) {
      Must(iovad_mirror_wait_for(mirror, number, -1, &error));
      puts("ok");
    } else {
      uint64_t* const gpas = ReadNumbers(number);
      uint64_t* const hvas = ReadNumbers(number);
      const double by_gpa = TimeVectors(mirror, gpas, hvas, number);
      printf("%.3f %.3f\n", by_gpa, TimeVectors(mirror, NULL, hvas, number));
      free(gpas);
      free(hvas);
    }
    fflush(stdout);
  }
  iovad_mirror_close(mirror);
  iovad_space_close(space);
  iovad_client_close(client);
  return 0;
}
