#define _GNU_SOURCE /* SOCK_CLOEXEC, MSG_CMSG_CLOEXEC */
#include "client/c/iovad_fd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

/* The messages, as in server/fd_socket.md. Bytes, so that neither padding nor the
 * order of the machine matters. */
enum { MAGIC_SIZE = 4, TEXT_SIZE = 128, VERSION = 1 };
enum { DEPOSIT = 1, WITHDRAW = 2, ATTEST = 3 };

struct request {
  char magic[MAGIC_SIZE];
  uint8_t version, operation, kind, zero;
  char handle[IOVAD_FD_HANDLE_SIZE];
  char name[IOVAD_FD_NAME_SIZE];
};

struct answer {
  char magic[MAGIC_SIZE];
  uint8_t version, operation, kind, zero;
  uint8_t reason[4], pid[4], uid[4], zeros[4];
  char handle[IOVAD_FD_HANDLE_SIZE];
  char name[IOVAD_FD_NAME_SIZE];
  char text[TEXT_SIZE];
};

/* Does not compile when the compiler pads them. */
typedef char request_is_packed[sizeof(struct request) == 104 ? 1 : -1];
typedef char answer_is_packed[sizeof(struct answer) == 248 ? 1 : -1];

/* Room for one descriptor, aligned as the kernel writes it. */
union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

static const char kMagic[MAGIC_SIZE] = {'I', 'O', 'F', 'D'};

static int fail(struct iovad_fd_error* error, int os_errno, const char* what) {
  if (error != NULL) {
    error->reason = 0;
    error->os_errno = os_errno;
    snprintf(error->text, sizeof(error->text), "%s%s%s", what, os_errno != 0 ? ": " : "",
             os_errno != 0 ? strerror(os_errno) : "");
  }
  return -1;
}

static int refused(struct iovad_fd_error* error, const struct answer* answer) {
  if (error != NULL) {
    error->reason = answer->reason[0] | answer->reason[1] << 8;
    error->os_errno = 0;
    /* The text may fill its field. */
    snprintf(error->text, sizeof(error->text), "%.*s", TEXT_SIZE, answer->text);
  }
  return -1;
}

/* Closes every descriptor that came, but for the first of `keep`, which goes to
 * `*kept`. */
static void take_fds(struct msghdr* header, int* kept) {
  struct cmsghdr* part;
  for (part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
    size_t count, i;
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      if (*kept < 0) {
        *kept = fd;
      } else {
        close(fd);
      }
    }
  }
}

static int send_request(int socket, struct request* request, int fd) {
  struct iovec data = {request, sizeof(*request)};
  struct msghdr header = {0};
  union control control;
  ssize_t sent;
  memcpy(request->magic, kMagic, sizeof(kMagic));
  request->version = VERSION;
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    struct cmsghdr* part;
    memset(&control, 0, sizeof(control));
    header.msg_control = &control;
    header.msg_controllen = sizeof(control.bytes);
    part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &fd, sizeof(int));
  }
  do {
    sent = sendmsg(socket, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -1 : 0;
}

/* The answer's size, 0 at the end of the connection, -1 with errno. */
static ssize_t receive_answer(int socket, struct answer* answer, int* fd) {
  struct iovec data = {answer, sizeof(*answer)};
  struct msghdr header;
  union control control;
  ssize_t got;
  do {
    memset(&header, 0, sizeof(header));
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = &control;
    header.msg_controllen = sizeof(control.bytes);
    got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got >= 0) take_fds(&header, fd);
  return got;
}

/* One request and its answer. A descriptor that comes with it goes to `*got_fd`,
 * which is -1 otherwise. */
static int call(int socket, struct request* request, int fd, struct answer* answer, int* got_fd,
                struct iovad_fd_error* error) {
  const int send_errno = send_request(socket, request, fd) < 0 ? errno : 0;
  /* Even when the server has closed the connection, it may have said why. */
  ssize_t got;
  *got_fd = -1;
  got = receive_answer(socket, answer, got_fd);
  if (got == (ssize_t)sizeof(*answer) && memcmp(answer->magic, kMagic, sizeof(kMagic)) == 0 &&
      answer->version == VERSION) {
    if (answer->reason[0] != 0 || answer->reason[1] != 0) {
      refused(error, answer);
    } else if (send_errno == 0) {
      return 0;
    } else {
      fail(error, send_errno, "sendmsg");
    }
  } else if (send_errno != 0 || got < 0) {
    fail(error, send_errno != 0 ? send_errno : errno, send_errno != 0 ? "sendmsg" : "recvmsg");
  } else {
    fail(error, 0, got == 0 ? "the fd socket was closed" : "the answer is none of iovad's");
  }
  if (*got_fd >= 0) close(*got_fd);
  *got_fd = -1;
  return -1;
}

static int call_for_handle(int socket, struct request* request, int fd,
                           char handle[IOVAD_FD_HANDLE_SIZE + 1], struct iovad_fd_error* error) {
  struct answer answer;
  int stray;
  if (call(socket, request, fd, &answer, &stray, error) < 0) return -1;
  if (stray >= 0) close(stray);
  memcpy(handle, answer.handle, IOVAD_FD_HANDLE_SIZE);
  handle[IOVAD_FD_HANDLE_SIZE] = '\0';
  return 0;
}

int iovad_fd_connect(const char* path, struct iovad_fd_error* error) {
  struct sockaddr_un address = {0};
  int fd;
  if (strlen(path) >= sizeof(address.sun_path)) return fail(error, ENAMETOOLONG, path);
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path);
  fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(error, errno, "socket");
  if (connect(fd, (const struct sockaddr*)&address, sizeof(address)) != 0) {
    const int os_errno = errno;
    close(fd);
    return fail(error, os_errno, path);
  }
  return fd;
}

int iovad_fd_deposit(int socket, enum iovad_fd_kind kind, const char* name, int fd,
                     char handle[IOVAD_FD_HANDLE_SIZE + 1], struct iovad_fd_error* error) {
  struct request request = {0};
  const size_t length = name != NULL ? strlen(name) : 0;
  if (length > sizeof(request.name)) return fail(error, ENAMETOOLONG, "the name");
  request.operation = DEPOSIT;
  request.kind = (uint8_t)kind;
  if (length > 0) memcpy(request.name, name, length);
  return call_for_handle(socket, &request, fd, handle, error);
}

int iovad_fd_withdraw(int socket, const char* handle, struct iovad_fd_error* error) {
  struct request request = {0};
  struct answer answer;
  int fd;
  if (strlen(handle) != sizeof(request.handle)) return fail(error, EINVAL, "the handle");
  request.operation = WITHDRAW;
  memcpy(request.handle, handle, sizeof(request.handle));
  if (call(socket, &request, -1, &answer, &fd, error) < 0) return -1;
  return fd >= 0 ? fd : fail(error, 0, "no descriptor came with the answer");
}

int iovad_fd_attest(int socket, char handle[IOVAD_FD_HANDLE_SIZE + 1],
                    struct iovad_fd_error* error) {
  struct request request = {0};
  request.operation = ATTEST;
  return call_for_handle(socket, &request, -1, handle, error);
}
