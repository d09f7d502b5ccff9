/* Loaded before a program (LD_PRELOAD): writes down, in their order, all changes that the program
 * makes to the files below RECORD_FOLDER, into RECORD_LOG. Entries: operation, length of the name,
 * name, offset, length, bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { FILES = 1024 };
static char *names[FILES];
static int log_fd = -1;
static const char *folder;
static size_t folder_length;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    folder = getenv("RECORD_FOLDER");
    const char *path = getenv("RECORD_LOG");
    if (folder == NULL || path == NULL)
        return;
    folder_length = strlen(folder);
    int fd = REAL(open64)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 900);
    close(fd);
}

static const char *below(const char *path) {
    if (log_fd < 0 || path == NULL || strncmp(path, folder, folder_length) != 0)
        return NULL;
    return path[folder_length] == '/' ? path + folder_length + 1 : NULL;
}

static void put(char op, const char *name, uint64_t offset, const void *data, uint64_t length) {
    uint8_t size = (uint8_t)strlen(name);
    __typeof__(&write) to = REAL(write);
    pthread_mutex_lock(&one_at_a_time);
    if (to(log_fd, &op, 1) != 1 || to(log_fd, &size, 1) != 1 || to(log_fd, name, size) != size ||
        to(log_fd, &offset, 8) != 8 || to(log_fd, &length, 8) != 8 ||
        (data != NULL && to(log_fd, data, length) != (ssize_t)length))
        abort();
    pthread_mutex_unlock(&one_at_a_time);
}

static const char *of(int fd) { return fd >= 0 && fd < FILES ? names[fd] : NULL; }

static int opened(int fd, const char *path) {
    const char *name = below(path);
    if (fd >= 0 && fd < FILES) {
        free(names[fd]);
        names[fd] = name != NULL ? strdup(name) : NULL;
    }
    return fd;
}

#define MODE                                                                                      \
    mode_t mode = 0;                                                                              \
    if (flags & O_CREAT) {                                                                        \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode = va_arg(rest, mode_t);                                                              \
        va_end(rest);                                                                             \
    }

int open(const char *path, int flags, ...) {
    MODE return opened(REAL(open)(path, flags, mode), path);
}

int open64(const char *path, int flags, ...) {
    MODE return opened(REAL(open64)(path, flags, mode), path);
}

int close(int fd) {
    if (of(fd) != NULL) {
        free(names[fd]);
        names[fd] = NULL;
    }
    return REAL(close)(fd);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    ssize_t done = REAL(pwrite64)(fd, data, length, offset);
    if (of(fd) != NULL && done > 0)
        put('w', of(fd), (uint64_t)offset, data, (uint64_t)done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return pwrite64(fd, data, length, offset);
}

ssize_t write(int fd, const void *data, size_t length) {
    off64_t offset = of(fd) != NULL ? lseek64(fd, 0, SEEK_CUR) : 0;
    ssize_t done = REAL(write)(fd, data, length);
    if (of(fd) != NULL && done > 0)
        put('w', of(fd), (uint64_t)offset, data, (uint64_t)done);
    return done;
}

int ftruncate64(int fd, off64_t length) {
    int done = REAL(ftruncate64)(fd, length);
    if (of(fd) != NULL && done == 0)
        put('t', of(fd), (uint64_t)length, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fsync(int fd) {
    if (of(fd) != NULL)
        put('s', of(fd), 0, NULL, 0);
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    if (of(fd) != NULL)
        put('s', of(fd), 0, NULL, 0);
    return REAL(fdatasync)(fd);
}

int unlink(const char *path) {
    int done = REAL(unlink)(path);
    if (below(path) != NULL && done == 0)
        put('u', below(path), 0, NULL, 0);
    return done;
}
