/* A fault injector for one process tree, loaded with LD_PRELOAD: it counts the calls that touch files below a folder, and
 * at a chosen one kills the process (before, after, or half way through a write), or fails it and the next few.
 *
 * The counter lies in a shared file, so that children that execute other programs count on. With a log, every call that
 * changes something is recorded with its data, in the order in which it took effect: tests/torture/power_loss.py works out
 * from that what a machine may have on its disk after its power was cut.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL };
enum { ANY, CHANGES }; /* which calls are counted */

struct shared { _Atomic long calls; _Atomic long fired; };

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1, names_fd = -1;
static long at, times;
static int how, error_number, which;
static struct shared *shared;
static volatile int armed;
static __thread int inside;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* The path of a descriptor, or of a name relative to one; "" if it is not below the root. */
static int below(int folder, const char *name, char *path)
{
    char link[64], base[PATH_MAX] = "";
    if (!armed || inside) return 0;
    if (name == NULL || name[0] != '/') {
        if (folder == AT_FDCWD) { if (syscall(SYS_getcwd, base, sizeof base) < 0) return 0; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t n = syscall(SYS_readlink, link, base, sizeof base - 1);
            if (n < 0) return 0;
            base[n] = 0;
        }
    }
    if (name == NULL || !*name) snprintf(path, PATH_MAX, "%.4000s", base);
    else if (name[0] == '/') snprintf(path, PATH_MAX, "%.4000s", name);
    else snprintf(path, PATH_MAX, "%.3000s/%.1000s", base, name);
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static void raw_write(int fd, const void *data, size_t size)
{
    const char *p = data;
    while (size) { ssize_t n = syscall(SYS_write, fd, p, size); if (n <= 0) return; p += n; size -= n; }
}

/* A record of the log: sizes, numbers, texts, data. */
static void record(const char *op, const struct stat *st, long long a, long long b, const char *one, const char *two,
                   const void *data, size_t size)
{
    if (log_fd < 0) return;
    char head[256];
    snprintf(head, sizeof head, "%s %llu %lld %lld %zu %zu %zu\n", op, (unsigned long long)(st ? st->st_ino : 0), a, b,
             one ? strlen(one) : 0, two ? strlen(two) : 0, size);
    raw_write(log_fd, head, strlen(head));
    if (one) raw_write(log_fd, one, strlen(one));
    if (two) raw_write(log_fd, two, strlen(two));
    if (size) raw_write(log_fd, data, size);
}

/* Counts a call. Returns the error to fail with, 0 to go on; kills the process if that is due before it. */
static int begin(const char *name, const char *path, int changes, int *after)
{
    *after = 0;
    if (which == CHANGES && !changes) return 0;
    long number = atomic_fetch_add(&shared->calls, 1);
    if (names_fd >= 0) {
        char line[PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%ld %d %s %s\n", number, changes, name, path + root_length);
        raw_write(names_fd, line, n);
    }
    if (how == FAIL && number >= at && number < at + times) { atomic_store(&shared->fired, 1); return error_number; }
    if (number != at || how == COUNT || how == FAIL) return 0;
    atomic_store(&shared->fired, 1);
    if (how == KILL_BEFORE) syscall(SYS_kill, getpid(), SIGKILL);
    *after = how;
    return 0;
}

static void end(int after) { if (after) syscall(SYS_kill, getpid(), SIGKILL); }

#define ENTER(name, folder, given, changes, failed)                                   \
    REAL(name);                                                                       \
    char path[PATH_MAX]; int after = 0, error;                                        \
    int ours = below(folder, given, path);                                            \
    if (ours) { pthread_mutex_lock(&order); inside = 1;                               \
                if ((error = begin(#name, path, changes, &after))) {                  \
                    inside = 0; pthread_mutex_unlock(&order); errno = error; return failed; } }
#define LEAVE(result) do { int kept = errno; if (ours) { end(after); inside = 0; pthread_mutex_unlock(&order); }  \
                           errno = kept; return result; } while (0)

static int opened(int fd, const char *path, int flags, int was)
{
    struct stat st;
    if (fd < 0 || syscall(SYS_fstat, fd, &st) || !S_ISREG(st.st_mode)) return fd;
    if (!was && (flags & O_CREAT)) record("create", &st, st.st_mode & 07777, 0, path, NULL, NULL, 0);
    else if (flags & O_TRUNC) record("truncate", &st, 0, 0, NULL, NULL, NULL, 0);
    return fd;
}

#define OPENS (flags & (O_CREAT | O_TRUNC)) != 0
#define MODE  va_list list; mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_start(list, flags); \
              mode = va_arg(list, mode_t); va_end(list); }
#define WAS   int was = ours ? syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0 : 0

int open(const char *given, int flags, ...)
{ MODE ENTER(open, AT_FDCWD, given, OPENS, -1) WAS; int fd = real(given, flags, mode);
  if (ours) opened(fd, path, flags, was);
  LEAVE(fd); }
int open64(const char *given, int flags, ...)
{ MODE ENTER(open64, AT_FDCWD, given, OPENS, -1) WAS; int fd = real(given, flags, mode);
  if (ours) opened(fd, path, flags, was);
  LEAVE(fd); }
int openat(int folder, const char *given, int flags, ...)
{ MODE ENTER(openat, folder, given, OPENS, -1) WAS; int fd = real(folder, given, flags, mode);
  if (ours) opened(fd, path, flags, was);
  LEAVE(fd); }
int openat64(int folder, const char *given, int flags, ...)
{ MODE ENTER(openat64, folder, given, OPENS, -1) WAS; int fd = real(folder, given, flags, mode);
  if (ours) opened(fd, path, flags, was);
  LEAVE(fd); }
DIR *opendir(const char *given) { ENTER(opendir, AT_FDCWD, given, 0, NULL) DIR *found = real(given); LEAVE(found); }

ssize_t write(int fd, const void *data, size_t size)
{
    ENTER(write, fd, NULL, 1, -1)
    struct stat st = {0};
    long long offset = 0;
    if (ours) {
        syscall(SYS_fstat, fd, &st);
        offset = syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND ? st.st_size : syscall(SYS_lseek, fd, 0, SEEK_CUR);
        if (after == KILL_HALF) size /= 2;
    }
    ssize_t n = real(fd, data, size);
    if (ours && n > 0) record("write", &st, offset, 0, NULL, NULL, data, n);
    LEAVE(n);
}

#define PWRITE(name)                                                                   \
ssize_t name(int fd, const void *data, size_t size, off_t offset)                      \
{                                                                                      \
    ENTER(name, fd, NULL, 1, -1)                                                       \
    struct stat st = {0};                                                              \
    if (ours) { syscall(SYS_fstat, fd, &st); if (after == KILL_HALF) size /= 2; }      \
    ssize_t n = real(fd, data, size, offset);                                          \
    if (ours && n > 0) record("write", &st, offset, 0, NULL, NULL, data, n);           \
    LEAVE(n);                                                                          \
}
PWRITE(pwrite)
PWRITE(pwrite64)

/* Ways round the calls above: the program then takes the way through them. */
#define AWAY(fd) char path[PATH_MAX]; if (below(fd, NULL, path)) { errno = EINVAL; return -1; }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t size, unsigned flags)
{ REAL(copy_file_range); AWAY(out) return real(in, a, out, b, size, flags); }
ssize_t sendfile(int out, int in, off_t *offset, size_t size)
{ static ssize_t (*real)(int, int, off_t *, size_t); if (!real) real = dlsym(RTLD_NEXT, "sendfile");
  AWAY(out) return real(out, in, offset, size); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size)
{ static ssize_t (*real)(int, int, off64_t *, size_t); if (!real) real = dlsym(RTLD_NEXT, "sendfile64");
  AWAY(out) return real(out, in, offset, size); }

#define READS(name, kind, declared, passed)                                            \
ssize_t name declared { ENTER(name, fd, NULL, 0, -1) ssize_t n = real passed; LEAVE(n); }
READS(read, , (int fd, void *data, size_t size), (fd, data, size))
READS(pread, , (int fd, void *data, size_t size, off_t offset), (fd, data, size, offset))
READS(pread64, , (int fd, void *data, size_t size, off64_t offset), (fd, data, size, offset))
READS(preadv, , (int fd, const struct iovec *parts, int count, off_t offset), (fd, parts, count, offset))
READS(preadv64, , (int fd, const struct iovec *parts, int count, off64_t offset), (fd, parts, count, offset))

#define STATS(name, folder, given, declared, passed)                                   \
int name declared { ENTER(name, folder, given, 0, -1) int found = real passed; LEAVE(found); }
STATS(stat, AT_FDCWD, p, (const char *restrict p, struct stat *restrict s), (p, s))
STATS(stat64, AT_FDCWD, p, (const char *restrict p, struct stat64 *restrict s), (p, s))
STATS(lstat, AT_FDCWD, p, (const char *restrict p, struct stat *restrict s), (p, s))
STATS(lstat64, AT_FDCWD, p, (const char *restrict p, struct stat64 *restrict s), (p, s))
STATS(fstat, fd, NULL, (int fd, struct stat *s), (fd, s))
STATS(fstat64, fd, NULL, (int fd, struct stat64 *s), (fd, s))
STATS(fstatat, fd, p, (int fd, const char *restrict p, struct stat *restrict s, int f), (fd, p, s, f))
STATS(fstatat64, fd, p, (int fd, const char *restrict p, struct stat64 *restrict s, int f), (fd, p, s, f))

#define RENAMES(name, from, one, to, two, declared, passed)                            \
int name declared {                                                                    \
    char target[PATH_MAX]; int into = below(to, two, target);                          \
    ENTER(name, from, one, 1, -1)                                                      \
    int done = real passed;                                                            \
    if (ours && into && !done) record("rename", NULL, 0, 0, path, target, NULL, 0);    \
    LEAVE(done);                                                                       \
}
RENAMES(rename, AT_FDCWD, a, AT_FDCWD, b, (const char *a, const char *b), (a, b))
RENAMES(renameat, x, a, y, b, (int x, const char *a, int y, const char *b), (x, a, y, b))
int renameat2(int x, const char *a, int y, const char *b, unsigned flags)
{
    char target[PATH_MAX]; int into = below(y, b, target);
    ENTER(renameat2, x, a, 1, -1)
    int done = real(x, a, y, b, flags);
    if (ours && into && !done) record(flags & RENAME_EXCHANGE ? "exchange" : "rename", NULL, 0, 0, path, target, NULL, 0);
    LEAVE(done);
}

#define LINKS(name, from, one, to, two, declared, passed)                              \
int name declared {                                                                    \
    char source[PATH_MAX]; int of = below(from, one, source);                          \
    ENTER(name, to, two, 1, -1)                                                        \
    int done = real passed;                                                            \
    if (ours && of && !done) record("link", NULL, 0, 0, source, path, NULL, 0);        \
    LEAVE(done);                                                                       \
}
LINKS(link, AT_FDCWD, a, AT_FDCWD, b, (const char *a, const char *b), (a, b))
LINKS(linkat, x, a, y, b, (int x, const char *a, int y, const char *b, int f), (x, a, y, b, f))

int symlink(const char *target, const char *given)
{ ENTER(symlink, AT_FDCWD, given, 1, -1) int done = real(target, given);
  if (ours && !done) record("symlink", NULL, 0, 0, target, path, NULL, 0);
  LEAVE(done); }
int symlinkat(const char *target, int folder, const char *given)
{ ENTER(symlinkat, folder, given, 1, -1) int done = real(target, folder, given);
  if (ours && !done) record("symlink", NULL, 0, 0, target, path, NULL, 0);
  LEAVE(done); }

#define ENTRY(name, op, folder, declared, passed)                                      \
int name declared { ENTER(name, folder, p, 1, -1) int done = real passed;              \
    if (ours && !done) record(op, NULL, 0, 0, path, NULL, NULL, 0); \
  LEAVE(done); }
ENTRY(unlink, "unlink", AT_FDCWD, (const char *p), (p))
ENTRY(unlinkat, "unlink", fd, (int fd, const char *p, int f), (fd, p, f))
ENTRY(rmdir, "unlink", AT_FDCWD, (const char *p), (p))
ENTRY(mkdir, "mkdir", AT_FDCWD, (const char *p, mode_t m), (p, m))
ENTRY(mkdirat, "mkdir", fd, (int fd, const char *p, mode_t m), (fd, p, m))

#define SIZES(name, type)                                                              \
int name(int fd, type size) {                                                          \
    ENTER(name, fd, NULL, 1, -1) struct stat st = {0};                                 \
    if (ours) syscall(SYS_fstat, fd, &st);                                             \
    int done = real(fd, size);                                                         \
    if (ours && !done) record("truncate", &st, size, 0, NULL, NULL, NULL, 0); \
  LEAVE(done); }
SIZES(ftruncate, off_t)
SIZES(ftruncate64, off64_t)

#define SYNCS(name)                                                                    \
int name(int fd) { ENTER(name, fd, NULL, 1, -1) struct stat st = {0};                  \
    if (ours) syscall(SYS_fstat, fd, &st);                                             \
    int done = armed && log_fd >= 0 ? 0 : real(fd);                                    \
    if (ours && !done) record(S_ISDIR(st.st_mode) ? "fsyncdir" : "fsync", &st, 0, 0, path, NULL, NULL, 0); \
  LEAVE(done); }
SYNCS(fsync)
SYNCS(fdatasync)

int chmod(const char *given, mode_t mode)
{ ENTER(chmod, AT_FDCWD, given, 1, -1) int done = real(given, mode);
  if (ours && !done) record("chmod", NULL, mode, 0, path, NULL, NULL, 0);
  LEAVE(done); }
int fchmod(int fd, mode_t mode)
{ ENTER(fchmod, fd, NULL, 1, -1) int done = real(fd, mode);
  if (ours && !done) record("chmod", NULL, mode, 0, path, NULL, NULL, 0);
  LEAVE(done); }
int utimensat(int folder, const char *given, const struct timespec when[2], int flags)
{ ENTER(utimensat, folder, given, 1, -1) int done = real(folder, given, when, flags);
  if (ours && !done && when) record("utime", NULL, when[1].tv_sec, when[1].tv_nsec, path, NULL, NULL, 0);
  LEAVE(done); }
int futimens(int fd, const struct timespec when[2])
{ ENTER(futimens, fd, NULL, 1, -1) int done = real(fd, when);
  if (ours && !done && when) record("utime", NULL, when[1].tv_sec, when[1].tv_nsec, path, NULL, NULL, 0);
  LEAVE(done); }

/* Begin. `counter` and the two logs are files outside the root; the logs may be "". */
int torture_arm(const char *folder, const char *counter, const char *log, const char *names, int counted, int act,
                long number, int error, long count)
{
    inside = 1;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    int fd = syscall(SYS_openat, AT_FDCWD, counter, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || syscall(SYS_ftruncate, fd, sizeof *shared)) return -1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared == MAP_FAILED) return -1;
    int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC;
    log_fd = *log ? syscall(SYS_openat, AT_FDCWD, log, flags, 0600) : -1;
    names_fd = *names ? syscall(SYS_openat, AT_FDCWD, names, flags, 0600) : -1;
    which = counted; how = act; at = number; error_number = error; times = count;
    inside = 0;
    armed = 1;
    return 0;
}

/* Children that execute another program take the order from the environment. */
__attribute__((constructor)) static void from_environment(void)
{
    char *given = getenv("RNA_WATCH_TORTURE"), *part[9], *rest;
    if (!given || !(given = strdup(given))) return;
    for (int i = 0; i < 9; i++) if (!(part[i] = strsep(&given, "\t"))) return;
    torture_arm(part[0], part[1], part[2], part[3], atoi(part[4]), atoi(part[5]), strtol(part[6], &rest, 10),
                atoi(part[7]), strtol(part[8], &rest, 10));
}
