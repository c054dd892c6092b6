/* Descriptors in and out of an iovad, for programs in C.
 *
 * Purpose. The client's end of iovad's fd socket, without C++ and without gRPC: a
 * VMM deposits the memory of its guest and names the handle in RegisterMemory, or
 * has its own process attested for an owner_handle. The protocol is described in
 * server/fd_socket.md.
 *
 * Thread safety. A socket is for one thread at a time.
 *
 * Invariants.
 *  1. Functions return -1 on failure, and then `*error` (which may be NULL) says
 *     why.
 *  2. What comes out has close-on-exec. What goes in stays open here. No SIGPIPE
 *     is raised.
 *
 * Example:
 *   char handle[IOVAD_FD_HANDLE_SIZE + 1];
 *   struct iovad_fd_error error;
 *   int fds = iovad_fd_connect("/run/iovad/iovad.fd.sock", &error);
 *   if (fds < 0 ||
 *       iovad_fd_deposit(fds, IOVAD_FD_MEMORY, "ram", memfd, handle, &error) < 0)
 *     fprintf(stderr, "%s\n", error.text);
 */
#ifndef IOVAD_CLIENT_C_IOVAD_FD_H_
#define IOVAD_CLIENT_C_IOVAD_FD_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IOVAD_FD_HANDLE_SIZE 32 /* hexadecimal digits, without the final zero */
#define IOVAD_FD_NAME_SIZE 64   /* bytes of UTF-8, at most */

enum iovad_fd_kind {
  IOVAD_FD_MEMORY = 1,
  IOVAD_FD_DEVICE = 2,
  IOVAD_FD_EVENTFD = 3,
};

struct iovad_fd_error {
  int reason;     /* of iovad.v1.Reason, when the server refused; else 0 */
  int os_errno;   /* when a system call failed; else 0 */
  char text[192]; /* for people */
};

/* Connects. The socket is the caller's: close() ends it. SO_RCVTIMEO and
 * SO_SNDTIMEO bound how long the functions below may take. */
int iovad_fd_connect(const char* path, struct iovad_fd_error* error);

/* Writes a handle for `fd` to `handle`, with a final zero. `name` is for people
 * and may be NULL. Returns 0. */
int iovad_fd_deposit(int socket, enum iovad_fd_kind kind, const char* name, int fd,
                     char handle[IOVAD_FD_HANDLE_SIZE + 1], struct iovad_fd_error* error);

/* Returns the descriptor that `handle` stands for: the caller's. */
int iovad_fd_withdraw(int socket, const char* handle, struct iovad_fd_error* error);

/* Writes a handle for the process that connected. Returns 0. */
int iovad_fd_attest(int socket, char handle[IOVAD_FD_HANDLE_SIZE + 1],
                    struct iovad_fd_error* error);

#ifdef __cplusplus
}
#endif

#endif /* IOVAD_CLIENT_C_IOVAD_FD_H_ */
