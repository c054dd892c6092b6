/* iovad for VMMs in C, Rust, or whatever calls C: libiovad.so.
 *
 * Purpose. A VMM has its IOVA address spaces managed by iovad: it maps and unmaps guest
 * memory, has shadow virtqueues placed, owns the device and applies what iovad decides
 * (a relay), and looks addresses up in its data path from memory, without a call (a
 * mirror). The C++ library (client/client.h) is under it, and what that promises of time
 * limits, repeats, exactly-once, forks and signals holds here.
 *
 * Conventions.
 *  - Functions return 0, or -1 on failure, and then `error`, which may be NULL, says why:
 *    INVALID_VALUE when it is for an argument that was not even sent. Those that look up
 *    return what came out (enum iovad_outcome).
 *  - Each struct begins with its size: set `struct_size` to sizeof(the struct) and all
 *    that you do not mean to zero, as `= {.struct_size = sizeof(x)}` does, also in those
 *    that are filled in. A later version may make structs longer, and takes the shorter
 *    ones for as long as the library's soname is the same. One that is longer than the
 *    library knows must be zero there: INVALID_ARGUMENT. In an array, all have the same
 *    struct_size. `struct iovad_range` and `struct iovad_segment` never change.
 *  - Handles are opaque, and the caller's until they are closed; NULL may be closed.
 *    They may be closed in any order. Strings and arrays that go in are copied, those in
 *    callbacks are good until the callback returns.
 *  - Addresses and sizes are in bytes; ranges have both ends included; times are in
 *    milliseconds, a negative one means without end.
 *  - `options` may be NULL: all as usual.
 *
 * Thread safety. Every function may be called from any number of threads, on the same
 * handles too, but for closing a handle, which must be its last use. A thread must not be
 * cancelled (pthread_cancel) in a call.
 *
 * Processes and signals. As in client/client.h: fork before the first iovad_connect, or
 * only to exec. The library is never unloaded (dlclose leaves it). Looking up may be done
 * in a signal handler, all else not.
 *
 * Invariants.
 *  1. No C++ exception leaves the library.
 *  2. A change that returned 0 is stored, on every attached device, and in this client's
 *     mirrors.
 *
 * Example:
 *   struct iovad_error error = {.struct_size = sizeof(error)};
 *   struct iovad_client* client;
 *   struct iovad_space* space;
 *   uint64_t iova;
 *   if (iovad_connect("/run/iovad/iovad.sock", NULL, &client, &error) < 0 ||
 *       iovad_space_open(client, "vm1", NULL, NULL, &space, &error) < 0 ||
 *       iovad_map_guest(space, 0x0, ram, 0x80000000, IOVAD_READ_WRITE, NULL, &iova, &error) < 0)
 *     fprintf(stderr, "%s\n", error.message);
 *
 * Each function has an example below, in which `client`, `space`, `mirror` and so on are
 * handles, `error` is as above, and other variables are what their names say. QEMU.md
 * beside this file says how the calls stand for a VMM's own tree of IOVAs.
 */
#ifndef IOVAD_CLIENT_C_IOVAD_H_
#define IOVAD_CLIENT_C_IOVAD_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors ---------------------------------------------------------------- */

/* The kinds of errors: the codes of gRPC. */
enum iovad_code {
  IOVAD_OK = 0,
  IOVAD_CANCELLED = 1,
  IOVAD_UNKNOWN = 2,
  IOVAD_INVALID_ARGUMENT = 3,
  IOVAD_DEADLINE_EXCEEDED = 4, /* it may still be done */
  IOVAD_NOT_FOUND = 5,
  IOVAD_ALREADY_EXISTS = 6,
  IOVAD_PERMISSION_DENIED = 7,
  IOVAD_RESOURCE_EXHAUSTED = 8,
  IOVAD_FAILED_PRECONDITION = 9,
  IOVAD_ABORTED = 10,
  IOVAD_OUT_OF_RANGE = 11,
  IOVAD_UNIMPLEMENTED = 12,
  IOVAD_INTERNAL = 13,
  IOVAD_UNAVAILABLE = 14, /* no server until the time was up */
  IOVAD_DATA_LOSS = 15,
  IOVAD_UNAUTHENTICATED = 16,
};

/* Why the server refused, which is what to branch on: the numbers of iovad.v1.Reason,
 * which says what they mean. A newer server may have more. */
enum iovad_reason {
  IOVAD_REASON_NONE = 0,

  IOVAD_REASON_INVALID_NAME = 101,
  IOVAD_REASON_INVALID_LABEL = 102,
  IOVAD_REASON_UNALIGNED = 103,
  IOVAD_REASON_EMPTY_RANGE = 104,
  IOVAD_REASON_RANGE_WRAPS = 105,
  IOVAD_REASON_INVALID_ACCESS = 106,
  IOVAD_REASON_INVALID_QUEUE_SIZE = 107,
  IOVAD_REASON_TOO_MANY_OPS = 108,
  IOVAD_REASON_MISSING_FIELD = 109,
  IOVAD_REASON_INVALID_PAGE_TOKEN = 110,
  IOVAD_REASON_REQUEST_ID_REUSED = 111,
  IOVAD_REASON_INVALID_VALUE = 112,

  IOVAD_REASON_SPACE_NOT_FOUND = 201,
  IOVAD_REASON_DEVICE_NOT_FOUND = 202,
  IOVAD_REASON_MAPPING_NOT_FOUND = 203,
  IOVAD_REASON_MEMORY_NOT_FOUND = 204,
  IOVAD_REASON_SVQ_NOT_FOUND = 205,
  IOVAD_REASON_HANDLE_NOT_FOUND = 206,

  IOVAD_REASON_NAME_TAKEN = 301,
  IOVAD_REASON_IOVA_OVERLAP = 302,
  IOVAD_REASON_GPA_OVERLAP = 303,
  IOVAD_REASON_HOST_HVA_OVERLAP = 304,
  IOVAD_REASON_MAPPING_EXISTS = 305,

  IOVAD_REASON_OUTSIDE_IOVA_RANGE = 401,
  IOVAD_REASON_RESERVED_OVERLAP = 402,
  IOVAD_REASON_REVISION_COMPACTED = 403,

  IOVAD_REASON_IOVA_EXHAUSTED = 501,
  IOVAD_REASON_MAPPING_LIMIT = 502,
  IOVAD_REASON_SPACE_LIMIT = 503,
  IOVAD_REASON_MEMLOCK_LIMIT = 504,
  IOVAD_REASON_ENTRY_BUDGET = 505,
  IOVAD_REASON_STORE_FULL = 506,
  IOVAD_REASON_OVERLOADED = 507,
  IOVAD_REASON_WATCHER_TOO_SLOW = 508,

  IOVAD_REASON_WOULD_SPLIT = 601,
  IOVAD_REASON_MEMORY_NOT_REGISTERED = 602,
  IOVAD_REASON_MEMORY_UNSUITABLE = 603,
  IOVAD_REASON_UNBOUND_MEMORY = 604,
  IOVAD_REASON_SPACE_NOT_EMPTY = 605,
  IOVAD_REASON_IN_USE = 606,
  IOVAD_REASON_DEVICE_BUSY = 607,
  IOVAD_REASON_DEVICE_RANGE_CONFLICT = 608,
  IOVAD_REASON_NO_DEVICE_CAPABILITY = 609,
  IOVAD_REASON_SPACE_FROZEN = 610,
  IOVAD_REASON_ATTACHMENT_FAILED = 611,

  IOVAD_REASON_REVISION_MISMATCH = 701,
  IOVAD_REASON_REQUEST_IN_FLIGHT = 702,
  IOVAD_REASON_SNAPSHOT_EXPIRED = 703,

  IOVAD_REASON_RELAY_DISCONNECTED = 801,
  IOVAD_REASON_ACK_TIMEOUT = 802,
  IOVAD_REASON_DRAINING = 803,

  IOVAD_REASON_NOT_OWNER = 901,
  IOVAD_REASON_ROLE_REQUIRED = 902,
  IOVAD_REASON_PATH_NOT_ALLOWED = 903,
  IOVAD_REASON_NO_IDENTITY = 904,

  IOVAD_REASON_DEVICE_ERROR = 1001,

  IOVAD_REASON_STORE_CORRUPT = 1101,
  IOVAD_REASON_EXPORT_CORRUPT = 1102,
};

struct iovad_error {
  uint32_t struct_size;
  int32_t code;      /* enum iovad_code */
  int32_t reason;    /* enum iovad_reason; 0: not the server's */
  int32_t os_errno;  /* of the device or a system call; 0: none */
  uint32_t op_index; /* of the operation, query or queue that failed, from 0 */
  uint32_t reserved;
  uint64_t current_revision; /* with REVISION_MISMATCH */
  char message[480];         /* for people: the space, the range, what to do */
};

/* "WOULD_SPLIT" and "INVALID_ARGUMENT" and so on; "UNKNOWN" for a number that is none.
 *   printf("%s %s\n", iovad_code_name(error.code), iovad_reason_name(error.reason)); */
const char* iovad_reason_name(int32_t reason);
const char* iovad_code_name(int32_t code);

/* The library's version: "0.1.0".
 *   puts(iovad_version()); */
const char* iovad_version(void);

/* ---- The server ------------------------------------------------------------ */

struct iovad_client;

struct iovad_client_options {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t timeout_ms; /* of calls that do not say otherwise, repeats included; 0: 30 s */
};

/* How one call is made. */
struct iovad_options {
  uint32_t struct_size;
  uint32_t flags;             /* enum iovad_option_flags */
  int64_t timeout_ms;         /* 0: the client's */
  uint64_t expected_revision; /* with IOVAD_EXPECT_REVISION */
  const char* request_id;     /* NULL: one of its own; else see "Exactly once" in client.h */
};
enum iovad_option_flags {
  /* Refuse unless the space is at `expected_revision`: REVISION_MISMATCH. */
  IOVAD_EXPECT_REVISION = 1,
  /* Answer as if it were done, and change nothing: of maps, unmaps and queues. */
  IOVAD_VALIDATE_ONLY = 2,
};

/* A client of the iovad at `address`: a Unix socket's path, or 127.0.0.1:PORT. Does not
 * wait for it, nor notice that there is none: the first call does.
 *   iovad_connect("/run/iovad/iovad.sock", NULL, &client, &error); */
int iovad_connect(const char* address, const struct iovad_client_options* options,
                  struct iovad_client** client, struct iovad_error* error);

/* Closes it. Spaces, mirrors and relays that came from it go on.
 *   iovad_client_close(client); */
void iovad_client_close(struct iovad_client* client);

/* Returns when the server serves. DEADLINE_EXCEEDED.
 *   iovad_wait_until_serving(client, 5000, &error); */
int iovad_wait_until_serving(struct iovad_client* client, int64_t timeout_ms,
                             struct iovad_error* error);

#define IOVAD_HANDLE_SIZE 33 /* with the final zero */

/* Writes a handle for this process, with which others make it the owner of a space. It
 * works once, and for half a minute.
 *   char owner[IOVAD_HANDLE_SIZE];
 *   iovad_attest_process(client, NULL, owner, &error); */
int iovad_attest_process(struct iovad_client* client, const struct iovad_options* options,
                         char handle[IOVAD_HANDLE_SIZE], struct iovad_error* error);

/* ---- Spaces ---------------------------------------------------------------- */

struct iovad_space;

/* All addresses from `first` to `last`. */
struct iovad_range {
  uint64_t first;
  uint64_t last;
};

enum iovad_placement {
  IOVAD_PLACEMENT_CONGRUENT = 1, /* the default: congruent with the HVA, for huge pages */
  IOVAD_PLACEMENT_IDENTITY = 2,  /* IOVA = GPA */
  IOVAD_PLACEMENT_FIRST_FIT = 3, /* the lowest free IOVA */
};

struct iovad_space_spec {
  uint32_t struct_size;
  uint32_t flags; /* enum iovad_space_flags */
  const char* name;
  uint32_t placement; /* enum iovad_placement; 0: congruent */
  uint32_t reserved;
  struct iovad_range iova_range;             /* with IOVAD_SPACE_HAS_RANGE */
  const struct iovad_range* reserved_ranges; /* with IOVAD_SPACE_HAS_RESERVED */
  uint64_t reserved_count;
  uint64_t page_size;       /* 0: 4096 */
  uint64_t max_mappings;    /* 0: the server's default */
  int64_t grace_ms;         /* with IOVAD_SPACE_HAS_GRACE */
  const char* owner_handle; /* iovad_attest_process of the owner; NULL: this process */
};
enum iovad_space_flags {
  IOVAD_SPACE_HAS_RANGE = 1,    /* else [0, 2^48 - 1] */
  IOVAD_SPACE_HAS_RESERVED = 2, /* else the x86 MSI window; none of them: nothing is */
  /* It lives as long as its owner's process, and then for the grace time. */
  IOVAD_SPACE_OWNED = 4,
  IOVAD_SPACE_HAS_GRACE = 8, /* else the server's default */
};

/* Makes a space. INVALID_NAME, INVALID_VALUE, NAME_TAKEN, SPACE_LIMIT.
 *   struct iovad_space_spec spec = {.struct_size = sizeof(spec), .name = "vm1",
 *                                   .flags = IOVAD_SPACE_OWNED};
 *   iovad_space_create(client, &spec, NULL, &space, &error); */
int iovad_space_create(struct iovad_client* client, const struct iovad_space_spec* spec,
                       const struct iovad_options* options, struct iovad_space** space,
                       struct iovad_error* error);

/* The space of that name. With a `uid` that is not NULL: that one and no other, which was
 * made anew under the name. SPACE_NOT_FOUND.
 *   iovad_space_open(client, "vm1", NULL, NULL, &space, &error); */
int iovad_space_open(struct iovad_client* client, const char* name, const char* uid,
                     const struct iovad_options* options, struct iovad_space** space,
                     struct iovad_error* error);

/* Closes the handle; the space stays.
 *   iovad_space_close(space); */
void iovad_space_close(struct iovad_space* space);

/* Removes the space with all that is mapped, and detaches its devices.
 *   iovad_space_delete(space, NULL, &error); */
int iovad_space_delete(struct iovad_space* space, const struct iovad_options* options,
                       struct iovad_error* error);

struct iovad_space_info {
  uint32_t struct_size;
  uint32_t placement; /* enum iovad_placement */
  char name[72];
  char uid[IOVAD_HANDLE_SIZE + 7];
  struct iovad_range iova_range; /* in force */
  uint64_t page_size;
  uint64_t revision;
  uint64_t mapping_count;
  uint64_t max_mappings;
  uint64_t mapped_bytes;
  uint64_t svq_count;
  uint32_t attachment_count;
  uint32_t live_count;    /* of the attachments: those that have every change */
  uint32_t owner_pid;     /* 0: nobody's */
  uint32_t owner_is_gone; /* 1: its process has ended, and the grace time runs */
};

/* What it is now.
 *   struct iovad_space_info info = {.struct_size = sizeof(info)};
 *   iovad_space_get(space, NULL, &info, &error); */
int iovad_space_get(struct iovad_space* space, const struct iovad_options* options,
                    struct iovad_space_info* info, struct iovad_error* error);

/* Gives it to the process of `owner_handle`; NULL: this process takes it over.
 * HANDLE_NOT_FOUND, NO_IDENTITY.
 *   iovad_space_transfer(space, NULL, NULL, &error); */
int iovad_space_transfer(struct iovad_space* space, const char* owner_handle,
                         const struct iovad_options* options, struct iovad_error* error);

/* Attaches a device that iovad has open, which gets all that is mapped; or lets it go.
 * (A device that this process owns is attached by iovad_relay_start.)
 * DEVICE_NOT_FOUND, IN_USE, DEVICE_RANGE_CONFLICT, ENTRY_BUDGET, MEMORY_NOT_REGISTERED.
 *   iovad_attach_device(space, "net0", 0, NULL, &error); */
int iovad_attach_device(struct iovad_space* space, const char* device, uint32_t asid,
                        const struct iovad_options* options, struct iovad_error* error);
/*   iovad_detach_device(space, "net0", 0, NULL, &error); */
int iovad_detach_device(struct iovad_space* space, const char* device, uint32_t asid,
                        const struct iovad_options* options, struct iovad_error* error);

/* ---- Registered memory ------------------------------------------------------- */

struct iovad_memory_spec {
  uint32_t struct_size;
  int32_t fd;   /* of a file or a memfd, sealed against shrinking; stays yours */
  uint64_t hva; /* where this process has it mapped */
  uint64_t size;
  uint64_t offset;   /* of the first byte, in the file */
  const char* label; /* for people; NULL: none */
};

/* Makes memory known to the server, from its descriptor, in one call, so that processes
 * other than this one can reach it. All three numbers are multiples of the page size.
 * UNALIGNED, HOST_HVA_OVERLAP, MEMORY_UNSUITABLE.
 *   struct iovad_memory_spec ram_file = {.struct_size = sizeof(ram_file), .fd = memfd,
 *                                        .hva = ram, .size = ram_size, .label = "ram"};
 *   uint64_t memory_id;
 *   iovad_register_memory(space, &ram_file, NULL, &memory_id, &error); */
int iovad_register_memory(struct iovad_space* space, const struct iovad_memory_spec* memory,
                          const struct iovad_options* options, uint64_t* id,
                          struct iovad_error* error);

/* IN_USE while anything is mapped over it, MEMORY_NOT_FOUND.
 *   iovad_unregister_memory(space, id, NULL, &error); */
int iovad_unregister_memory(struct iovad_space* space, uint64_t id,
                            const struct iovad_options* options, struct iovad_error* error);

/* A descriptor of registered memory, or of that which the server made for queues, in
 * `fd`: the caller's, with close-on-exec.
 *   iovad_get_memory_fd(space, queues[0].memory_id, NULL, &fd, &error); */
int iovad_get_memory_fd(struct iovad_space* space, uint64_t id, const struct iovad_options* options,
                        int* fd, struct iovad_error* error);

/* ---- Mappings --------------------------------------------------------------- */

/* What the device may do. */
enum iovad_access {
  IOVAD_READ = 1,
  IOVAD_WRITE = 2,
  IOVAD_READ_WRITE = 3,
};

/* Maps a section of guest memory at an IOVA of the space's choosing, which `iova` (may be
 * NULL) gets. GPA_OVERLAP, UNALIGNED, IOVA_EXHAUSTED, MAPPING_LIMIT; MAPPING_EXISTS when
 * exactly this is mapped already, which is an error too.
 *   iovad_map_guest(space, 0x100000, ram + 0x100000, 0x40000000, IOVAD_READ_WRITE, NULL,
 *                   &iova, &error); */
int iovad_map_guest(struct iovad_space* space, uint64_t gpa, uint64_t hva, uint64_t size,
                    uint32_t access, const struct iovad_options* options, uint64_t* iova,
                    struct iovad_error* error);

/* Unmaps the section that begins at `gpa`, whatever else has its host memory. Its IOVA is
 * free when this returns. MAPPING_NOT_FOUND.
 *   iovad_unmap_guest(space, 0x100000, NULL, &error); */
int iovad_unmap_guest(struct iovad_space* space, uint64_t gpa, const struct iovad_options* options,
                      struct iovad_error* error);

/* Maps memory that the guest does not have (rings, buffers of a control queue), where it
 * is not yet mapped so: HOST_HVA_OVERLAP.
 *   iovad_map_host(space, buffer, 0x1000, IOVAD_READ, NULL, &iova, &error); */
int iovad_map_host(struct iovad_space* space, uint64_t hva, uint64_t size, uint32_t access,
                   const struct iovad_options* options, uint64_t* iova, struct iovad_error* error);

/* Unmaps what begins at `iova`, as iovad_map_host gave it. MAPPING_NOT_FOUND.
 *   iovad_unmap_host(space, iova, NULL, &error); */
int iovad_unmap_host(struct iovad_space* space, uint64_t iova, const struct iovad_options* options,
                     struct iovad_error* error);

enum iovad_op_kind {
  IOVAD_OP_MAP_GUEST = 1,        /* gpa, hva, size, access, label */
  IOVAD_OP_MAP_HOST = 2,         /* hva, size, access, label */
  IOVAD_OP_UNMAP_ID = 3,         /* id */
  IOVAD_OP_UNMAP_GPA = 4,        /* that begins at gpa */
  IOVAD_OP_UNMAP_IOVA = 5,       /* that begins at iova */
  IOVAD_OP_UNMAP_GPA_RANGE = 6,  /* all inside of gpa and size */
  IOVAD_OP_UNMAP_IOVA_RANGE = 7, /* all inside of iova and size */
  IOVAD_OP_UNMAP_HVA_RANGE = 8,  /* host-only memory inside of hva and size */
};
enum iovad_op_flags {
  IOVAD_OP_FIXED_IOVA = 1,    /* of maps: at `iova`, or not at all */
  IOVAD_OP_ALLOW_SPLIT = 2,   /* of unmaps: cut what a range's ends lie in */
  IOVAD_OP_ALLOW_MISSING = 4, /* of unmaps: nothing there is no error */
};
struct iovad_op {
  uint32_t struct_size;
  uint32_t kind;   /* enum iovad_op_kind */
  uint32_t flags;  /* enum iovad_op_flags */
  uint32_t access; /* enum iovad_access */
  uint64_t gpa;
  uint64_t hva;
  uint64_t iova; /* of a map, filled in */
  uint64_t size;
  uint64_t id;       /* of a map, filled in */
  const char* label; /* for people, at most 64 characters; NULL: none */
  /* Filled in, of unmaps: */
  uint64_t removed_count;
  uint64_t removed_bytes;
};

/* All of it as one change, or nothing and an error whose op_index says which; in the
 * order given. At most 65,536. `revision` (may be NULL) gets the space's, after it.
 *   struct iovad_op ops[] = {
 *       {.struct_size = sizeof(ops[0]), .kind = IOVAD_OP_UNMAP_GPA, .gpa = 0x100000},
 *       {.struct_size = sizeof(ops[0]), .kind = IOVAD_OP_MAP_GUEST, .gpa = 0x100000,
 *        .hva = ram, .size = 0x1000, .access = IOVAD_READ},
 *   };
 *   iovad_update(space, ops, 2, NULL, &revision, &error); */
int iovad_update(struct iovad_space* space, struct iovad_op* ops, size_t count,
                 const struct iovad_options* options, uint64_t* revision,
                 struct iovad_error* error);

struct iovad_mapping {
  uint32_t struct_size;
  uint32_t access; /* enum iovad_access */
  uint64_t id;
  uint64_t iova;
  uint64_t hva;
  uint64_t gpa; /* of guest memory */
  uint64_t size;
  uint64_t revision;  /* that made it */
  uint64_t svq_id;    /* 0: of no queue */
  uint64_t memory_id; /* registered memory that it lies in; 0: none */
  uint32_t is_guest;  /* 1: guest memory, 0: host-only */
  uint32_t reserved;
  const char* label; /* "" when it has none */
};

/* Calls `visit` for each mapping that touches `iovas` (NULL: all), by IOVA, until it
 * returns other than 0. All are of one revision, which `revision` (may be NULL) gets.
 *   iovad_list(space, NULL, NULL, print_mapping, stdout, &revision, &error); */
int iovad_list(struct iovad_space* space, const struct iovad_range* iovas,
               const struct iovad_options* options,
               int (*visit)(void* opaque, const struct iovad_mapping* mapping), void* opaque,
               uint64_t* revision, struct iovad_error* error);

/* ---- Shadow virtqueues -------------------------------------------------------- */

enum iovad_ring_format {
  IOVAD_RING_SPLIT = 1,
  IOVAD_RING_PACKED = 2,
};
enum iovad_svq_flags {
  IOVAD_SVQ_CONTROL = 1, /* a control queue: with an out and an in buffer of a page */
  /* The areas are this process's own, at the addresses given; else the server makes
   * memory for them: iovad_get_memory_fd, and map it. */
  IOVAD_SVQ_OWN_MEMORY = 2,
};
struct iovad_svq_spec {
  uint32_t struct_size;
  uint32_t flags; /* enum iovad_svq_flags */
  uint32_t queue_index;
  uint32_t queue_size; /* entries; of a split queue a power of two */
  uint32_t format;     /* enum iovad_ring_format; 0: split */
  uint32_t reserved;
  uint64_t desc_hva; /* packed only: a split queue's are in the driver area */
  uint64_t driver_hva;
  uint64_t device_hva;
  uint64_t control_out_hva; /* control queues only */
  uint64_t control_in_hva;
};
struct iovad_svq {
  uint32_t struct_size;
  uint32_t flags;
  uint32_t queue_index;
  uint32_t queue_size;
  uint32_t format;
  uint32_t reserved;
  uint64_t id;
  /* IOVAs, as VHOST_SET_VRING_ADDR takes them. */
  uint64_t desc;
  uint64_t driver;
  uint64_t device;
  uint64_t control_out; /* control queues only */
  uint64_t control_in;
  /* Where in the server's memory each area is; without that, 0. */
  uint64_t memory_id;
  uint64_t desc_offset;
  uint64_t driver_offset;
  uint64_t device_offset;
  uint64_t control_out_offset;
  uint64_t control_in_offset;
};

/* Places queues, all or none. INVALID_QUEUE_SIZE, UNALIGNED, HOST_HVA_OVERLAP.
 *   struct iovad_svq_spec wanted[] = {
 *       {.struct_size = sizeof(wanted[0]), .queue_index = 0, .queue_size = 256},
 *       {.struct_size = sizeof(wanted[0]), .queue_index = 1, .queue_size = 256},
 *   };
 *   struct iovad_svq queues[2] = {{.struct_size = sizeof(queues[0])},
 *                                 {.struct_size = sizeof(queues[0])}};
 *   iovad_alloc_svqs(space, wanted, queues, 2, NULL, &error); */
int iovad_alloc_svqs(struct iovad_space* space, const struct iovad_svq_spec* specs,
                     struct iovad_svq* svqs, size_t count, const struct iovad_options* options,
                     struct iovad_error* error);

/* Unmaps them with all their areas. None named: all that the space has. SVQ_NOT_FOUND.
 *   iovad_free_svqs(space, NULL, 0, NULL, &error); */
int iovad_free_svqs(struct iovad_space* space, const uint64_t* ids, size_t count,
                    const struct iovad_options* options, struct iovad_error* error);

/* ---- Looking up ---------------------------------------------------------------- */

struct iovad_mirror;

struct iovad_mirror_options {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t silence_ms; /* a server that says nothing for so long is lost; 0: 5 s */
};

/* A copy of the space in this process, which is kept in step by a thread. Returns at
 * once, before there is anything in it.
 *   iovad_mirror_open(space, NULL, &mirror, &error); */
int iovad_mirror_open(struct iovad_space* space, const struct iovad_mirror_options* options,
                      struct iovad_mirror** mirror, struct iovad_error* error);

/*   iovad_mirror_close(mirror); */
void iovad_mirror_close(struct iovad_mirror* mirror);

enum iovad_mirror_state {
  IOVAD_MIRROR_STARTING = 1,     /* holds nothing yet */
  IOVAD_MIRROR_LIVE = 2,         /* hears of each revision as it is made */
  IOVAD_MIRROR_DISCONNECTED = 3, /* answers at the last revision that it heard of */
  IOVAD_MIRROR_GONE = 4,         /* the space was deleted; holds nothing */
};
struct iovad_mirror_status {
  uint32_t struct_size;
  uint32_t state; /* enum iovad_mirror_state */
  uint64_t revision;
  int64_t since_ms;     /* in that state, since 1970 */
  uint64_t snapshots;   /* how often it was filled as a whole, */
  uint64_t resumptions; /* and how often it went on where it had been */
  char space_uid[IOVAD_HANDLE_SIZE + 7];
  char why[256]; /* it is not live */
};

/* How it stands.
 *   struct iovad_mirror_status status = {.struct_size = sizeof(status)};
 *   iovad_mirror_get_status(mirror, &status, &error); */
int iovad_mirror_get_status(const struct iovad_mirror* mirror, struct iovad_mirror_status* status,
                            struct iovad_error* error);

/* Waits until it is live. Why it is not, if it has not been by then.
 *   iovad_mirror_wait_live(mirror, 5000, &error); */
int iovad_mirror_wait_live(const struct iovad_mirror* mirror, int64_t timeout_ms,
                           struct iovad_error* error);

/* Waits until it has `revision`, of changes that other clients made. DEADLINE_EXCEEDED;
 * SPACE_NOT_FOUND when the space is gone.
 *   iovad_mirror_wait_for(mirror, revision, 5000, &error); */
int iovad_mirror_wait_for(const struct iovad_mirror* mirror, uint64_t revision, int64_t timeout_ms,
                          struct iovad_error* error);

/* A stretch that the device reaches without a gap. */
struct iovad_segment {
  uint64_t iova;
  uint64_t size;
  uint64_t hva;
  uint64_t gpa; /* of guest memory */
  uint64_t mapping_id;
  uint32_t access;   /* enum iovad_access: what the mapping grants */
  uint32_t is_guest; /* 1: guest memory, 0: host-only */
  uint64_t piece;    /* of the iovec, from 0 */
};

enum iovad_outcome {
  IOVAD_WHOLE = 0,   /* all of it is in the segments */
  IOVAD_MISS = 1,    /* nothing is mapped at `fault_address` */
  IOVAD_DENIED = 2,  /* mapped there, but not for this access */
  IOVAD_NO_ROOM = 3, /* more segments than fit; what there are is right */
};
struct iovad_translation {
  uint32_t struct_size;
  uint32_t reserved;
  struct iovad_segment* segments; /* your array, of `capacity` */
  uint64_t capacity;
  /* Filled in: */
  uint64_t count; /* of segments */
  uint64_t done;  /* bytes that these cover, from the beginning on */
  uint64_t revision;
  uint64_t fault_address;
  uint64_t fault_piece; /* of the iovec: in which it ended early */
};

/* Translate: guest addresses, host addresses, or IOVAs. `access`: what the device must
 * be allowed to do; 0: nothing is checked. An HVA under several mappings is answered by
 * the one that permits the access and reaches farthest; iovad_translate_gpa is exact.
 * They return an enum iovad_outcome, or -1 when an argument is no good.
 *   struct iovad_segment segments[8];
 *   struct iovad_translation result = {.struct_size = sizeof(result), .segments = segments,
 *                                      .capacity = 8};
 *   if (iovad_translate_gpa(mirror, 0x1000, 1500, IOVAD_WRITE, &result) == IOVAD_WHOLE)
 *     printf("%#llx\n", (unsigned long long)segments[0].iova); */
int iovad_translate_gpa(const struct iovad_mirror* mirror, uint64_t gpa, uint64_t size,
                        uint32_t access, struct iovad_translation* result);
/*   iovad_translate_hva(mirror, ram + 0x1000, 1500, IOVAD_READ, &result); */
int iovad_translate_hva(const struct iovad_mirror* mirror, uint64_t hva, uint64_t size,
                        uint32_t access, struct iovad_translation* result);
/*   iovad_translate_iova(mirror, iova, 1, 0, &result); */
int iovad_translate_iova(const struct iovad_mirror* mirror, uint64_t iova, uint64_t size,
                         uint32_t access, struct iovad_translation* result);

/* Translates a buffer in pieces, at one revision. `gpas` are the pieces' guest addresses;
 * NULL: they are found by their host addresses. Pieces of no bytes are passed over.
 *   iovad_translate_iovec(mirror, iov, gpas, iov_count, IOVAD_READ, &result);
 *   iovad_translate_iovec(mirror, iov, NULL, iov_count, IOVAD_READ, &result); */
int iovad_translate_iovec(const struct iovad_mirror* mirror, const struct iovec* iov,
                          const uint64_t* gpas, size_t count, uint32_t access,
                          struct iovad_translation* result);

/* ---- Relay: a device that this process owns ------------------------------------- */

struct iovad_relay;

/* What a device's IOTLB is told: the messages of vhost. */
enum iovad_iotlb_type {
  IOVAD_IOTLB_BATCH_BEGIN = 1,
  IOVAD_IOTLB_UPDATE = 2,     /* iova, size, uaddr, access */
  IOVAD_IOTLB_INVALIDATE = 3, /* iova, size; both 0: everything */
  IOVAD_IOTLB_BATCH_END = 4,
};
struct iovad_iotlb_message {
  uint32_t struct_size;
  uint32_t type; /* enum iovad_iotlb_type */
  uint32_t asid;
  uint32_t access; /* enum iovad_access */
  uint64_t iova;
  uint64_t size;
  uint64_t uaddr;   /* in this process */
  uint32_t is_undo; /* 1: takes back what was refused after it */
  uint32_t reserved;
};

enum iovad_relay_event_type {
  IOVAD_RELAY_ATTACHED = 1,     /* in step from here on */
  IOVAD_RELAY_BATCH = 2,        /* a change was applied */
  IOVAD_RELAY_REFUSED = 3,      /* the device refused a batch; it was taken back */
  IOVAD_RELAY_DISCONNECTED = 4, /* the device keeps what it has; it is tried again */
  IOVAD_RELAY_DETACHED = 5,     /* the device is empty; the end */
  IOVAD_RELAY_FAILED = 6,       /* it cannot go on; the end */
};
struct iovad_relay_event {
  uint32_t struct_size;
  uint32_t type; /* enum iovad_relay_event_type */
  uint64_t revision;
  uint64_t entries; /* that the device has */
  const char* message;
};

struct iovad_relay_spec {
  uint32_t struct_size;
  uint32_t asid;
  const char* device; /* what it is called: "vm1-net0" */
  /* One of the two:
   *  - a descriptor of a vhost-vdpa device that has no owner. This process becomes its
   *    owner, and the device is reset. The descriptor stays yours.
   *  - -1, and `apply`, for a device that you have open and own. It is given one message
   *    after another, and returns 0 or an errno; what was done of a batch is undone then. */
  int32_t device_fd;
  uint32_t reserved;
  int (*apply)(void* opaque, const struct iovad_iotlb_message* message);
  /* With `apply`: what the device takes. */
  struct iovad_range iova_range; /* both 0: all */
  uint32_t as_num;               /* 0: 1 */
  uint32_t entry_budget;         /* 0: 2048 */
  /* Told what happens; may be NULL. */
  void (*on_event)(void* opaque, const struct iovad_relay_event* event);
  void* opaque; /* for both */
};

/* Attaches the device to the space and keeps it in step, from a thread of the library's,
 * over lost connections and restarts of the server, with this process's own addresses (no
 * memory has to be registered). The callbacks are called on threads of the library's, one
 * at a time; they must not call iovad_relay_stop. Returns at once: `on_event` says when
 * it is attached.
 *   struct iovad_relay_spec net0 = {.struct_size = sizeof(net0), .device = "vm1-net0",
 *                                   .device_fd = -1, .apply = write_to_device,
 *                                   .opaque = &vdpa_fd};
 *   iovad_relay_start(space, &net0, &relay, &error); */
int iovad_relay_start(struct iovad_space* space, const struct iovad_relay_spec* spec,
                      struct iovad_relay** relay, struct iovad_error* error);

/* Detaches the device, which is empty then, and closes the handle; without waiting when
 * the server is away. -1 when the relay had ended by itself, and why: DEVICE_BUSY,
 * SPACE_NOT_FOUND, ENTRY_BUDGET and so on. The handle is closed in any case.
 *   iovad_relay_stop(relay, &error); */
int iovad_relay_stop(struct iovad_relay* relay, struct iovad_error* error);

#ifdef __cplusplus
}
#endif

#endif /* IOVAD_CLIENT_C_IOVAD_H_ */
