/*
 * Makes calls on a broker's files fail, wait, or do less than they were asked for, while a test says so.
 *
 * Loaded with LD_PRELOAD. FAULTS_CONTROL names a file that the test has mapped too: the path with which the files
 * begin, and a rule for each kind of file and call. See faults.py, which has the other half of `struct control`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 };
enum file { DATABASE, WAL, OTHER, FILES };
enum call { OPEN, READ, WRITE, SYNC, TRUNCATE, CALLS };

struct rule {
    int32_t error;    /* what the call fails with; 0: it does not */
    int32_t delay_ms; /* how long it takes before anything else */
    int32_t part;     /* the most bytes that it reads or writes at once; 0: as many as it is asked for */
    int32_t garble;   /* what is read is overwritten with 0xff */
    int32_t skip;     /* so many calls are let through first */
    int32_t calls;    /* counted here: all calls, ... */
    int32_t faults;   /* ... and those in which something was done */
};

struct control {
    char prefix[PATH_BYTES]; /* of the files that are meant; empty: none */
    struct rule rules[FILES][CALLS];
};

static struct control *control;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int open_for_real(const char *path, int flags)
{
    REAL(open);
    return real(path, flags);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? open_for_real(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        control = shared;
}

/* The rule for a call on this file, if there is something to do; it counts, and takes the time that it should. */
static const struct rule *judge(const char *path, enum call call)
{
    size_t length = strlen(control->prefix);
    if (!length || strncmp(path, control->prefix, length))
        return NULL;
    const char *rest = path + length;
    struct rule *rule = &control->rules[!*rest ? DATABASE : !strcmp(rest, "-wal") ? WAL : OTHER][call];
    __atomic_add_fetch(&rule->calls, 1, __ATOMIC_SEQ_CST);
    if (!rule->error && !rule->delay_ms && !rule->part && !rule->garble)
        return NULL;
    if (__atomic_load_n(&rule->skip, __ATOMIC_SEQ_CST) > 0) {
        __atomic_sub_fetch(&rule->skip, 1, __ATOMIC_SEQ_CST);
        return NULL;
    }
    __atomic_add_fetch(&rule->faults, 1, __ATOMIC_SEQ_CST);
    if (rule->delay_ms) {
        struct timespec left = {rule->delay_ms / 1000, rule->delay_ms % 1000 * 1000000L};
        while (nanosleep(&left, &left) && errno == EINTR)
            ;
    }
    return rule;
}

static const struct rule *judge_fd(int fd, enum call call)
{
    char link[32], path[PATH_BYTES];
    if (!control)
        return NULL;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return NULL;
    path[length] = 0;
    return judge(path, call);
}

static size_t at_most(const struct rule *rule, size_t count)
{
    return rule && rule->part && (size_t)rule->part < count ? (size_t)rule->part : count;
}

/* A call's result: the error of its rule, or what the real one returns. */
#define CALL(fd, call, ...) \
    const struct rule *rule = judge_fd(fd, call); \
    if (rule && rule->error) { \
        errno = rule->error; \
        return -1; \
    } \
    __VA_ARGS__

static ssize_t garbled(const struct rule *rule, void *buffer, ssize_t got)
{
    if (rule && rule->garble && got > 0)
        memset(buffer, 0xff, (size_t)got);
    return got;
}

ssize_t read(int fd, void *buffer, size_t count)
{
    REAL(read);
    CALL(fd, READ, return garbled(rule, buffer, real(fd, buffer, at_most(rule, count))));
}

ssize_t pread(int fd, void *buffer, size_t count, off_t offset)
{
    REAL(pread);
    CALL(fd, READ, return garbled(rule, buffer, real(fd, buffer, at_most(rule, count), offset)));
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset)
{
    REAL(pread64);
    CALL(fd, READ, return garbled(rule, buffer, real(fd, buffer, at_most(rule, count), offset)));
}

ssize_t write(int fd, const void *buffer, size_t count)
{
    REAL(write);
    CALL(fd, WRITE, return real(fd, buffer, at_most(rule, count)));
}

ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset)
{
    REAL(pwrite);
    CALL(fd, WRITE, return real(fd, buffer, at_most(rule, count), offset));
}

ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset)
{
    REAL(pwrite64);
    CALL(fd, WRITE, return real(fd, buffer, at_most(rule, count), offset));
}

int fsync(int fd)
{
    REAL(fsync);
    CALL(fd, SYNC, return real(fd));
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    CALL(fd, SYNC, return real(fd));
}

int ftruncate(int fd, off_t length)
{
    REAL(ftruncate);
    CALL(fd, TRUNCATE, return real(fd, length));
}

int ftruncate64(int fd, off64_t length)
{
    REAL(ftruncate64);
    CALL(fd, TRUNCATE, return real(fd, length));
}

/* Only absolute paths are known here: a broker opens its files by those. */
#define OPENING(...) \
    mode_t mode = 0; \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    const struct rule *rule = control ? judge(path, OPEN) : NULL; \
    if (rule && rule->error) { \
        errno = rule->error; \
        return -1; \
    } \
    return real(__VA_ARGS__)

int open(const char *path, int flags, ...)
{
    REAL(open);
    OPENING(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    OPENING(path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    REAL(openat);
    OPENING(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    REAL(openat64);
    OPENING(directory, path, flags, mode);
}
