/* Preloaded into a process (LD_PRELOAD): appends a line to $NETWORK_LOG for each name looked up and each
 * address outside this machine, and lets nothing of it happen. Reports a socket of the file system (AF_UNIX) never. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void record(const char *what, const char *which) {
    const char *path = getenv("NETWORK_LOG");
    const int file = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char line[512];
    const int size = snprintf(line, sizeof line, "%s %s\n", what, which);
    if (file < 0 || write(file, line, (size_t)size) != size) abort();
    close(file);
}

/* Whether it leaves this machine. */
static int is_outside(const struct sockaddr *to, char *text, socklen_t size) {
    if (to == NULL || (to->sa_family != AF_INET && to->sa_family != AF_INET6)) return 0;
    const void *at = to->sa_family == AF_INET ? (const void *)&((const struct sockaddr_in *)to)->sin_addr
                                              : (const void *)&((const struct sockaddr_in6 *)to)->sin6_addr;
    if (inet_ntop(to->sa_family, at, text, size) == NULL) return 0;
    return strncmp(text, "127.", 4) != 0 && strcmp(text, "::1") != 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    (void)service, (void)hints, (void)found;
    record("getaddrinfo", node == NULL ? "" : node);
    return EAI_FAIL;
}

struct hostent *gethostbyname(const char *name) {
    record("gethostbyname", name);
    h_errno = NO_RECOVERY;
    return NULL;
}

int connect(int file, const struct sockaddr *to, socklen_t size) {
    char text[INET6_ADDRSTRLEN];
    if (is_outside(to, text, sizeof text)) {
        record("connect", text);
        errno = ENETUNREACH;
        return -1;
    }
    int (*real)(int, const struct sockaddr *, socklen_t) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "connect");
    return real(file, to, size);
}

ssize_t sendto(int file, const void *bytes, size_t count, int flags, const struct sockaddr *to, socklen_t size) {
    char text[INET6_ADDRSTRLEN];
    if (is_outside(to, text, sizeof text)) {
        record("sendto", text);
        errno = ENETUNREACH;
        return -1;
    }
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "sendto");
    return real(file, bytes, count, flags, to, size);
}
