/* The general calls of iovad.h, against a running iovad: errors, spaces, batches, memory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/c/harness.h"

static struct iovad_client* client;

static void NamesAreThoseOfTheApi(void) {
  CHECK(strcmp(iovad_reason_name(IOVAD_REASON_WOULD_SPLIT), "WOULD_SPLIT") == 0);
  CHECK(strcmp(iovad_reason_name(IOVAD_REASON_EXPORT_CORRUPT), "EXPORT_CORRUPT") == 0);
  CHECK(strcmp(iovad_reason_name(0), "UNKNOWN") == 0);
  CHECK(strcmp(iovad_reason_name(99999), "UNKNOWN") == 0);
  CHECK(strcmp(iovad_code_name(IOVAD_OK), "OK") == 0);
  CHECK(strcmp(iovad_code_name(IOVAD_DEADLINE_EXCEEDED), "DEADLINE_EXCEEDED") == 0);
  CHECK(strcmp(iovad_code_name(IOVAD_UNAUTHENTICATED), "UNAUTHENTICATED") == 0);
  CHECK(strcmp(iovad_code_name(-1), "UNKNOWN") == 0);
  CHECK(strcmp(iovad_code_name(17), "UNKNOWN") == 0);
  CHECK(iovad_version()[0] != '\0');
}

static void WhatIsMissingIsNamed(void) {
  struct iovad_client* none = NULL;
  struct iovad_space* space = NULL;
  struct iovad_space_spec spec = {.struct_size = sizeof(spec), .name = "x"};
  CHECK_FAILS(iovad_connect(NULL, NULL, &none, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_EQ(error.code, IOVAD_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "address") != NULL);
  CHECK_FAILS(iovad_connect(Socket(), NULL, NULL, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_EQ(iovad_connect("192.0.2.1:4000", NULL, &none, &error), -1);
  CHECK_EQ(error.code, IOVAD_INVALID_ARGUMENT);
  CHECK_FAILS(iovad_space_create(NULL, &spec, NULL, &space, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_FAILS(iovad_space_create(client, NULL, NULL, &space, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK(strstr(error.message, "spec is NULL") != NULL);
  CHECK_FAILS(iovad_space_create(client, &spec, NULL, NULL, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_FAILS(iovad_space_open(client, NULL, NULL, NULL, &space, &error),
              IOVAD_REASON_INVALID_VALUE);
  CHECK_FAILS(iovad_map_guest(NULL, 0, 0, PAGE, IOVAD_READ, NULL, NULL, &error),
              IOVAD_REASON_INVALID_VALUE);
  /* Without an error to fill in, or with one whose size is not said, it fails as well. */
  struct iovad_error unset = {.code = 77};
  CHECK_EQ(iovad_connect(NULL, NULL, &none, NULL), -1);
  CHECK_EQ(iovad_connect(NULL, NULL, &none, &unset), -1);
  CHECK_EQ(unset.code, 77);
  iovad_client_close(NULL);
  iovad_space_close(NULL);
  iovad_mirror_close(NULL);
  CHECK_OK(iovad_relay_stop(NULL, &error));
}

/* Structs of later versions, and of none. */
static void StructsAreTakenByTheirSize(void) {
  struct {
    struct iovad_space_spec spec;
    uint64_t later;
  } longer = {.spec = {.struct_size = sizeof(longer), .name = "sized"}};
  struct iovad_space* space = NULL;
  longer.later = 1;
  CHECK_FAILS(iovad_space_create(client, &longer.spec, NULL, &space, &error),
              IOVAD_REASON_INVALID_VALUE);
  CHECK(strstr(error.message, "struct_size") != NULL);
  longer.later = 0;
  CHECK_OK(iovad_space_create(client, &longer.spec, NULL, &space, &error));

  struct {
    struct iovad_space_info info;
    uint64_t later;
  } told = {.info = {.struct_size = sizeof(told)}, .later = 5};
  CHECK_OK(iovad_space_get(space, NULL, &told.info, &error));
  CHECK(strcmp(told.info.name, "sized") == 0);
  CHECK_EQ(told.info.struct_size, sizeof(told));
  CHECK_EQ(told.later, 0);

  const struct iovad_client_options reserved = {.struct_size = sizeof(reserved), .reserved = 1};
  struct iovad_client* none = NULL;
  CHECK_FAILS(iovad_connect(Socket(), &reserved, &none, &error), IOVAD_REASON_INVALID_VALUE);
  struct iovad_space_info unset = {.struct_size = 0};
  CHECK_FAILS(iovad_space_get(space, NULL, &unset, &error), IOVAD_REASON_INVALID_VALUE);
  struct iovad_options options = {.struct_size = 4};
  CHECK_FAILS(iovad_space_get(space, &options, &told.info, &error), IOVAD_REASON_INVALID_VALUE);
  CHECK_OK(iovad_space_delete(space, NULL, &error));
  iovad_space_close(space);
}

static void ASpaceIsMadeFoundAndRemoved(void) {
  const struct iovad_range reserved = {.first = 0x10000, .last = 0x1ffff};
  struct iovad_space_spec spec = {
      .struct_size = sizeof(spec),
      .flags = IOVAD_SPACE_HAS_RANGE | IOVAD_SPACE_HAS_RESERVED | IOVAD_SPACE_OWNED |
               IOVAD_SPACE_HAS_GRACE,
      .name = "made",
      .placement = IOVAD_PLACEMENT_FIRST_FIT,
      .iova_range = {.first = 0, .last = 0xffffffff},
      .reserved_ranges = &reserved,
      .reserved_count = 1,
      .max_mappings = 10,
      .grace_ms = 5000,
  };
  struct iovad_space* space = NULL;
  struct iovad_space* again = NULL;
  struct iovad_space_info info = {.struct_size = sizeof(info)};
  CHECK_OK(iovad_space_create(client, &spec, NULL, &space, &error));
  CHECK_FAILS(iovad_space_create(client, &spec, NULL, &again, &error), IOVAD_REASON_NAME_TAKEN);
  CHECK_EQ(error.code, IOVAD_ALREADY_EXISTS);
  CHECK_OK(iovad_space_get(space, NULL, &info, &error));
  CHECK_EQ(info.placement, IOVAD_PLACEMENT_FIRST_FIT);
  CHECK_EQ(info.iova_range.last, 0xffffffff);
  CHECK_EQ(info.max_mappings, 10);
  CHECK_EQ(info.page_size, PAGE);
  CHECK_EQ(info.revision, 1);
  CHECK_EQ(info.owner_pid, getpid());
  CHECK_EQ(info.owner_is_gone, 0);
  CHECK_EQ(strlen(info.uid), 32);

  CHECK_OK(iovad_space_open(client, "made", info.uid, NULL, &again, &error));
  CHECK_OK(iovad_space_transfer(again, NULL, NULL, &error));
  char owner[IOVAD_HANDLE_SIZE];
  CHECK_OK(iovad_attest_process(client, NULL, owner, &error));
  CHECK_EQ(strlen(owner), IOVAD_HANDLE_SIZE - 1);
  CHECK_OK(iovad_space_transfer(again, owner, NULL, &error));
  CHECK_FAILS(iovad_space_transfer(again, owner, NULL, &error), IOVAD_REASON_HANDLE_NOT_FOUND);
  iovad_space_close(again);
  CHECK_FAILS(iovad_space_open(client, "made", "0123", NULL, &again, &error),
              IOVAD_REASON_SPACE_NOT_FOUND);
  CHECK_FAILS(iovad_attach_device(space, "none", 0, NULL, &error), IOVAD_REASON_DEVICE_NOT_FOUND);
  CHECK_EQ(iovad_detach_device(space, "none", 0, NULL, &error), -1);
  CHECK_OK(iovad_space_delete(space, NULL, &error));
  CHECK_FAILS(iovad_space_get(space, NULL, &info, &error), IOVAD_REASON_SPACE_NOT_FOUND);
  CHECK_EQ(error.code, IOVAD_NOT_FOUND);
  iovad_space_close(space);

  spec.flags = 0x100;
  CHECK_FAILS(iovad_space_create(client, &spec, NULL, &space, &error), IOVAD_REASON_INVALID_VALUE);
  spec.flags = IOVAD_SPACE_HAS_RANGE;
  spec.iova_range.first = 1;
  spec.iova_range.last = 0;
  CHECK_FAILS(iovad_space_create(client, &spec, NULL, &space, &error), IOVAD_REASON_INVALID_VALUE);
}

static void ABatchIsOneChangeOrNone(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_op ops[] = {
      {.struct_size = sizeof(ops[0]),
       .kind = IOVAD_OP_MAP_GUEST,
       .gpa = 0,
       .hva = 0x7f0000000000,
       .size = 4 * PAGE,
       .access = IOVAD_READ_WRITE,
       .label = "ram"},
      {.struct_size = sizeof(ops[0]),
       .kind = IOVAD_OP_MAP_HOST,
       .hva = 0x7e0000000000,
       .size = PAGE,
       .access = IOVAD_READ,
       .flags = IOVAD_OP_FIXED_IOVA,
       .iova = 0x5000000},
      {.struct_size = sizeof(ops[0]),
       .kind = IOVAD_OP_MAP_GUEST,
       .gpa = PAGE,
       .hva = 0,
       .size = PAGE,
       .access = IOVAD_READ},
  };
  uint64_t revision = 0;
  CHECK_FAILS(iovad_update(space, ops, 3, NULL, &revision, &error), IOVAD_REASON_GPA_OVERLAP);
  CHECK_EQ(error.op_index, 2);
  CHECK_EQ(error.code, IOVAD_ALREADY_EXISTS);
  ops[2].access = 9;
  CHECK_FAILS(iovad_update(space, ops, 3, NULL, &revision, &error), IOVAD_REASON_INVALID_ACCESS);
  CHECK_EQ(error.op_index, 2);
  CHECK_OK(iovad_update(space, ops, 2, NULL, &revision, &error));
  CHECK_EQ(revision, 2);
  CHECK_EQ(ops[0].id, 1);
  CHECK(ops[0].iova != 0);
  CHECK_EQ(ops[1].iova, 0x5000000);

  struct iovad_options options = {
      .struct_size = sizeof(options), .flags = IOVAD_EXPECT_REVISION, .expected_revision = 1};
  struct iovad_op gone = {
      .struct_size = sizeof(gone), .kind = IOVAD_OP_UNMAP_GPA_RANGE, .gpa = PAGE, .size = PAGE};
  CHECK_FAILS(iovad_update(space, &gone, 1, &options, NULL, &error),
              IOVAD_REASON_REVISION_MISMATCH);
  CHECK_EQ(error.current_revision, 2);
  options.flags = IOVAD_VALIDATE_ONLY;
  CHECK_FAILS(iovad_update(space, &gone, 1, &options, NULL, &error), IOVAD_REASON_WOULD_SPLIT);
  gone.flags = IOVAD_OP_ALLOW_SPLIT;
  CHECK_OK(iovad_update(space, &gone, 1, &options, &revision, &error));
  CHECK_EQ(revision, 2);
  CHECK_EQ(gone.removed_count, 1);
  CHECK_EQ(gone.removed_bytes, PAGE);
  gone.flags = IOVAD_OP_FIXED_IOVA;
  CHECK_FAILS(iovad_update(space, &gone, 1, NULL, NULL, &error), IOVAD_REASON_INVALID_VALUE);
  gone.flags = 0;
  gone.size = 0;
  CHECK_FAILS(iovad_update(space, &gone, 1, NULL, NULL, &error), IOVAD_REASON_EMPTY_RANGE);
  gone.size = UINT64_MAX;
  CHECK_FAILS(iovad_update(space, &gone, 1, NULL, NULL, &error), IOVAD_REASON_RANGE_WRAPS);
  gone.kind = 99;
  CHECK_FAILS(iovad_update(space, &gone, 1, NULL, NULL, &error), IOVAD_REASON_INVALID_VALUE);

  struct iovad_op all[] = {
      {.struct_size = sizeof(all[0]), .kind = IOVAD_OP_UNMAP_ID, .id = ops[0].id},
      {.struct_size = sizeof(all[0]),
       .kind = IOVAD_OP_UNMAP_HVA_RANGE,
       .hva = 0x7e0000000000,
       .size = PAGE},
      {.struct_size = sizeof(all[0]),
       .kind = IOVAD_OP_UNMAP_IOVA,
       .iova = 0x5000000,
       .flags = IOVAD_OP_ALLOW_MISSING},
      {.struct_size = sizeof(all[0]),
       .kind = IOVAD_OP_UNMAP_IOVA_RANGE,
       .iova = 0,
       .size = 1ull << 40,
       .flags = IOVAD_OP_ALLOW_MISSING},
  };
  CHECK_OK(iovad_update(space, all, 4, NULL, &revision, &error));
  CHECK_EQ(all[0].removed_bytes, 4 * PAGE);
  CHECK_EQ(all[1].removed_count, 1);
  CHECK_EQ(all[2].removed_count, 0);
  CHECK_EQ(revision, 3);
  iovad_space_close(space);
}

static void TheSameIdIsDoneOnce(void) {
  struct iovad_space* space = NewSpace(client);
  const struct iovad_options options = {.struct_size = sizeof(options), .request_id = "once"};
  uint64_t first = 0;
  uint64_t again = 0;
  CHECK_OK(iovad_map_guest(space, 0, 0x7f0000000000, PAGE, IOVAD_READ, &options, &first, &error));
  CHECK_OK(iovad_map_guest(space, 0, 0x7f0000000000, PAGE, IOVAD_READ, &options, &again, &error));
  CHECK_EQ(first, again);
  CHECK_FAILS(iovad_unmap_guest(space, PAGE, &options, &error), IOVAD_REASON_REQUEST_ID_REUSED);
  iovad_space_close(space);
}

struct listed {
  uint64_t gpas[4];
  int count;
  int stop_after;
};
static int Visit(void* opaque, const struct iovad_mapping* mapping) {
  struct listed* const listed = opaque;
  CHECK_EQ(mapping->struct_size, sizeof(*mapping));
  CHECK_EQ(mapping->is_guest, 1);
  CHECK_EQ(mapping->size, PAGE);
  CHECK(strcmp(mapping->label, mapping->gpa == 0 ? "first" : "") == 0);
  listed->gpas[listed->count++] = mapping->gpa;
  return listed->count == listed->stop_after;
}

static void MappingsAreListed(void) {
  struct iovad_space* space = NewSpace(client);
  struct iovad_op ops[4];
  memset(ops, 0, sizeof(ops));
  for (int i = 0; i < 4; ++i) {
    ops[i].struct_size = sizeof(ops[0]);
    ops[i].kind = IOVAD_OP_MAP_GUEST;
    ops[i].flags = IOVAD_OP_FIXED_IOVA;
    ops[i].gpa = (uint64_t)i * 2 * PAGE;
    ops[i].iova = (uint64_t)(i + 1) * PAGE;
    ops[i].hva = 0x7f0000000000 + ops[i].gpa;
    ops[i].size = PAGE;
    ops[i].access = IOVAD_READ_WRITE;
    ops[i].label = i == 0 ? "first" : NULL;
  }
  CHECK_OK(iovad_update(space, ops, 4, NULL, NULL, &error));
  struct listed listed = {.count = 0};
  uint64_t revision = 0;
  CHECK_OK(iovad_list(space, NULL, NULL, Visit, &listed, &revision, &error));
  CHECK_EQ(listed.count, 4);
  CHECK_EQ(listed.gpas[3], 6 * PAGE);
  CHECK_EQ(revision, 2);
  const struct iovad_range part = {.first = 2 * PAGE, .last = 4 * PAGE};
  listed.count = 0;
  listed.stop_after = 2;
  CHECK_OK(iovad_list(space, &part, NULL, Visit, &listed, NULL, &error));
  CHECK_EQ(listed.count, 2);
  CHECK_EQ(listed.gpas[0], 2 * PAGE);
  CHECK_FAILS(iovad_list(space, &part, NULL, NULL, NULL, NULL, &error), IOVAD_REASON_INVALID_VALUE);
  iovad_space_close(space);
}

static void MemoryIsRegisteredFromADescriptor(void) {
  struct iovad_space* space = NewSpace(client);
  const int memfd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK_EQ(ftruncate(memfd, 16 * PAGE), 0);
  struct iovad_memory_spec spec = {.struct_size = sizeof(spec),
                                   .fd = memfd,
                                   .hva = 0x7f0000000000,
                                   .size = 16 * PAGE,
                                   .label = "ram"};
  uint64_t id = 0;
  CHECK_FAILS(iovad_register_memory(space, &spec, NULL, &id, &error),
              IOVAD_REASON_MEMORY_UNSUITABLE);
  CHECK_EQ(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  CHECK_OK(iovad_register_memory(space, &spec, NULL, &id, &error));
  CHECK_EQ(id, 1);
  int fd = -1;
  struct stat ours;
  struct stat theirs;
  CHECK_OK(iovad_get_memory_fd(space, id, NULL, &fd, &error));
  CHECK_EQ(fstat(memfd, &ours), 0);
  CHECK_EQ(fstat(fd, &theirs), 0);
  CHECK_EQ(ours.st_ino, theirs.st_ino);
  CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  close(fd);
  CHECK_OK(iovad_map_guest(space, 0, spec.hva, PAGE, IOVAD_READ, NULL, NULL, &error));
  CHECK_FAILS(iovad_unregister_memory(space, id, NULL, &error), IOVAD_REASON_IN_USE);
  CHECK_OK(iovad_unmap_guest(space, 0, NULL, &error));
  CHECK_OK(iovad_unregister_memory(space, id, NULL, &error));
  CHECK_FAILS(iovad_get_memory_fd(space, id, NULL, &fd, &error), IOVAD_REASON_MEMORY_NOT_FOUND);
  spec.size = 0;
  CHECK_EQ(iovad_register_memory(space, &spec, NULL, &id, &error), -1);
  close(memfd);
  iovad_space_close(space);
}

static void AServerThatIsNotThereIsGivenUp(void) {
  struct iovad_client* lost = NULL;
  struct iovad_space* space = NULL;
  const struct iovad_options soon = {.struct_size = sizeof(soon), .timeout_ms = 50};
  CHECK_OK(iovad_connect("/tmp/no-iovad-there.sock", NULL, &lost, &error));
  CHECK_EQ(iovad_space_open(lost, "vm1", NULL, &soon, &space, &error), -1);
  CHECK(error.code == IOVAD_UNAVAILABLE || error.code == IOVAD_DEADLINE_EXCEEDED);
  CHECK_EQ(error.reason, IOVAD_REASON_NONE);
  CHECK(space == NULL);
  iovad_client_close(lost);
}

static void HandlesMayBeClosedInAnyOrder(void) {
  struct iovad_client* other = NewClient();
  struct iovad_space* space = NewSpace(other);
  struct iovad_mirror* mirror = NULL;
  CHECK_OK(iovad_mirror_open(space, NULL, &mirror, &error));
  iovad_client_close(other);
  CHECK_OK(iovad_map_guest(space, 0, 0x7f0000000000, PAGE, IOVAD_READ, NULL, NULL, &error));
  iovad_space_close(space);
  CHECK_OK(iovad_mirror_wait_live(mirror, LONG_MS, &error));
  iovad_mirror_close(mirror);
}

static void AChildIsRefused(void) {
  struct iovad_space* space = NewSpace(client);
  const pid_t child = fork();
  if (child == 0) {
    const int refused =
        iovad_map_guest(space, 0, 0x7f0000000000, PAGE, IOVAD_READ, NULL, NULL, &error);
    ExecAs(refused == -1 && error.code == IOVAD_FAILED_PRECONDITION);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK_EQ(status, 0);
  CHECK_OK(iovad_map_guest(space, 0, 0x7f0000000000, PAGE, IOVAD_READ, NULL, NULL, &error));
  iovad_space_close(space);
}

int main(void) {
  StartDaemon("--ephemeral");
  client = NewClient();
  RUN(NamesAreThoseOfTheApi);
  RUN(WhatIsMissingIsNamed);
  RUN(StructsAreTakenByTheirSize);
  RUN(ASpaceIsMadeFoundAndRemoved);
  RUN(ABatchIsOneChangeOrNone);
  RUN(TheSameIdIsDoneOnce);
  RUN(MappingsAreListed);
  RUN(MemoryIsRegisteredFromADescriptor);
  RUN(AServerThatIsNotThereIsGivenUp);
  RUN(HandlesMayBeClosedInAnyOrder);
  RUN(AChildIsRefused);
  iovad_client_close(client);
  return Finish();
}
