/*
 * A disk that loses power, for one process. Loaded with LD_PRELOAD.
 *
 * Below POWERCUT_ROOT every write reaches the real file at once, so the process sees what it wrote. What would
 * survive a power cut is kept apart in POWERCUT_SHADOW, by inode:
 *
 *   data/<inode>   contents of a file; brought up to date only by fsync or fdatasync of that file
 *   dirs/<inode>   names in a directory ("<inode> <d|f> <name>" lines); only by fsync of that directory
 *
 * sync_file_range and close make nothing durable. To be as unkind as a real disk, POWERCUT_LEAK percent of the
 * 512-byte sectors of each write, and of the changes of names, reach the shadow early: a kernel may write back
 * what it likes in any order. With POWERCUT_LIE=1 fdatasync succeeds and does nothing. POWERCUT_FULL_AFTER bytes of growth the disk is full; after POWERCUT_SYNCS calls
 * fsync and fdatasync fail with EIO.
 *
 * Inodes are never freed while we run (a link to each removed file is kept in POWERCUT_SHADOW/grave), so an
 * inode names one file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define MAX_FILES 4096

struct range { off_t from, to; };
struct file {
    ino_t inode;
    int whole;               /* everything is dirty */
    off_t allocated;         /* growth below this costs nothing */
    struct range *dirty;
    size_t count, room;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], shadow[PATH_MAX];
static size_t root_length;
static struct file files[MAX_FILES];
static size_t file_count;
static unsigned leak;
static int lie;
static unsigned long long chance, room_left = ~0ULL, syncs_left = ~0ULL;

#define REAL(result, name, ...) static result (*real_##name)(__VA_ARGS__)
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(ssize_t, pwritev64, int, const struct iovec *, int, off_t);
REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
REAL(ssize_t, sendfile64, int, int, off_t *, size_t);
REAL(int, ftruncate64, int, off_t);
REAL(int, fallocate64, int, int, off_t, off_t);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, rename, const char *, const char *);
REAL(int, unlink, const char *);
REAL(int, unlinkat, int, const char *, int);
REAL(int, open64, const char *, int, ...);

static void fail(const char *what) {
    char text[256];
    int length = snprintf(text, sizeof text, "powercut shim: %s: %s\n", what, strerror(errno));
    if (real_write) (void)!real_write(2, text, (size_t)length);
    _exit(99);
}

#define LOAD(name) do { if (!(real_##name = dlsym(RTLD_NEXT, #name))) fail(#name); } while (0)

static unsigned long long number(const char *name, unsigned long long otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void begin(void) {
    LOAD(write); LOAD(pwrite64); LOAD(writev); LOAD(pwritev64); LOAD(copy_file_range); LOAD(sendfile64);
    LOAD(ftruncate64); LOAD(fallocate64); LOAD(fsync); LOAD(fdatasync); LOAD(rename); LOAD(unlink);
    LOAD(unlinkat); LOAD(open64);
    const char *at = getenv("POWERCUT_ROOT"), *to = getenv("POWERCUT_SHADOW");
    if (!at || !to || !realpath(at, root) || !realpath(to, shadow)) fail("POWERCUT_ROOT or POWERCUT_SHADOW");
    root_length = strlen(root);
    leak = (unsigned)number("POWERCUT_LEAK", 0);
    lie = number("POWERCUT_LIE", 0) != 0;
    chance = number("POWERCUT_SEED", 1) * 2862933555777941757ULL + 3037000493ULL;
    room_left = number("POWERCUT_FULL_AFTER", ~0ULL);
    syncs_left = number("POWERCUT_SYNCS", ~0ULL);
}

static int leaks(void) {
    chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
    return (chance >> 33) % 100 < leak;
}

static int below_root(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

/* The file behind a descriptor if it lies below the root; NULL otherwise. Call with the lock held. */
static struct file *tracked(int fd, struct stat *found) {
    if (fstat(fd, found) != 0 || !(S_ISREG(found->st_mode) || S_ISDIR(found->st_mode))) return NULL;
    for (size_t i = 0; i < file_count; i++)
        if (files[i].inode == found->st_ino) return &files[i];
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    if (!below_root(path)) return NULL;
    if (file_count == MAX_FILES) { errno = ENFILE; fail("too many files"); }
    struct file *file = &files[file_count++];
    file->inode = found->st_ino;
    file->allocated = found->st_size;
    return file;
}

static int open_data(ino_t inode) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/data/%lu", shadow, (unsigned long)inode);
    int out = real_open64(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (out < 0) fail(path);
    return out;
}

/* Copies a stretch of a file to its shadow. */
static void copy(int fd, int out, off_t from, off_t to) {
    char link[64], buffer[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int in = real_open64(link, O_RDONLY | O_CLOEXEC);
    if (in < 0) fail("reading back");
    while (from < to) {
        size_t want = (size_t)(to - from) < sizeof buffer ? (size_t)(to - from) : sizeof buffer;
        ssize_t got = pread(in, buffer, want, from);
        if (got < 0) fail("reading back");
        if (got == 0) break;
        if (real_pwrite64(out, buffer, (size_t)got, from) != got) fail("writing the shadow");
        from += got;
    }
    close(in);
}

static void wrote(int fd, struct file *file, off_t from, off_t to) {
    if (to <= from) return;
    if (to > file->allocated) file->allocated = to;
    if (leak) {
        int out = open_data(file->inode);
        for (off_t at = from; at < to;) {
            off_t next = (at / SECTOR + 1) * SECTOR;
            if (next > to) next = to;
            if (leaks()) copy(fd, out, at, next);
            at = next;
        }
        close(out);
    }
    struct range *last = file->count ? &file->dirty[file->count - 1] : NULL;
    if (last && last->to == from) { last->to = to; return; }
    if (file->count == file->room) {
        file->room = file->room ? file->room * 2 : 16;
        file->dirty = realloc(file->dirty, file->room * sizeof *file->dirty);
        if (!file->dirty) fail("memory");
    }
    file->dirty[file->count++] = (struct range){ from, to };
}

/* Is there room for a write that ends here? */
static int fits(struct file *file, off_t to) {
    if (to <= file->allocated) return 1;
    unsigned long long growth = (unsigned long long)(to - file->allocated);
    if (growth > room_left) { errno = ENOSPC; return 0; }
    if (room_left != ~0ULL) room_left -= growth;
    file->allocated = to;
    return 1;
}

static void keep_names(const char *path) {
    struct stat found;
    DIR *dir = opendir(path);
    if (!dir || fstat(dirfd(dir), &found) != 0) fail(path);
    char fresh[PATH_MAX + 64], name[PATH_MAX + 64], line[PATH_MAX];
    snprintf(fresh, sizeof fresh, "%s/dirs/%lu.new", shadow, (unsigned long)found.st_ino);
    snprintf(name, sizeof name, "%s/dirs/%lu", shadow, (unsigned long)found.st_ino);
    int out = real_open64(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0) fail(fresh);
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        struct stat child;
        if (fstatat(dirfd(dir), entry->d_name, &child, AT_SYMLINK_NOFOLLOW) != 0) continue;
        char kind = S_ISDIR(child.st_mode) ? 'd' : 'f';
        int length = snprintf(line, sizeof line, "%lu %c %s\n", (unsigned long)child.st_ino, kind, entry->d_name);
        if (real_write(out, line, (size_t)length) != length) fail(fresh);
    }
    close(out);
    closedir(dir);
    if (real_rename(fresh, name) != 0) fail(name);
}

static int sync_file(int fd, int (*otherwise)(int)) {
    pthread_mutex_lock(&lock);
    struct stat found;
    struct file *file = tracked(fd, &found);
    if (!file) { pthread_mutex_unlock(&lock); return otherwise(fd); }
    int result = 0;
    if (lie && otherwise == real_fdatasync) {
        result = 0;
    } else if (syncs_left == 0) {
        errno = EIO;
        result = -1;
    } else {
        if (syncs_left != ~0ULL) syncs_left--;
        if (S_ISDIR(found.st_mode)) {
            char link[64], path[PATH_MAX];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, path, sizeof path - 1);
            if (length < 0) fail("directory");
            path[length] = 0;
            keep_names(path);
        } else {
            int out = open_data(file->inode);
            if (file->whole) copy(fd, out, 0, found.st_size);
            for (size_t i = 0; !file->whole && i < file->count; i++) copy(fd, out, file->dirty[i].from, file->dirty[i].to);
            if (real_ftruncate64(out, found.st_size) != 0) fail("truncating the shadow");
            close(out);
            file->whole = 0;
            file->count = 0;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return sync_file(fd, real_fsync); }
int fdatasync(int fd) { return sync_file(fd, real_fdatasync); }
/* Starts writing back and promises nothing. */
int sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags) { (void)fd; (void)offset; (void)bytes; (void)flags; return 0; }

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}

/* Runs a write of `size` bytes at `at` (-1: at the descriptor's position). */
#define WRITING(size, at, call) do {                                                        \
        pthread_mutex_lock(&lock);                                                          \
        struct stat found;                                                                  \
        struct file *file = tracked(fd, &found);                                            \
        off_t from = (at);                                                                  \
        if (file && from < 0)                                                               \
            from = (fcntl(fd, F_GETFL) & O_APPEND) ? found.st_size : lseek(fd, 0, SEEK_CUR);\
        ssize_t done = -1;                                                                  \
        if (!file || fits(file, from + (off_t)(size))) done = (call);                       \
        int saved = errno;                                                                  \
        if (file && done > 0) wrote(fd, file, from, from + done);                           \
        pthread_mutex_unlock(&lock);                                                        \
        errno = saved;                                                                      \
        return done;                                                                        \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t size) {
    struct stat kind;
    if (fstat(fd, &kind) == 0 && !S_ISREG(kind.st_mode)) return real_write(fd, bytes, size);
    WRITING(size, -1, real_write(fd, bytes, size));
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t at) { WRITING(size, at, real_pwrite64(fd, bytes, size, at)); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { WRITING(size, at, real_pwrite64(fd, bytes, size, at)); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct stat kind;
    if (fstat(fd, &kind) == 0 && !S_ISREG(kind.st_mode)) return real_writev(fd, parts, count);
    WRITING(total(parts, count), -1, real_writev(fd, parts, count));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    WRITING(total(parts, count), at, real_pwritev64(fd, parts, count, at));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    WRITING(total(parts, count), at, real_pwritev64(fd, parts, count, at));
}

static void all_dirty(int fd) {
    struct stat found;
    pthread_mutex_lock(&lock);
    struct file *file = tracked(fd, &found);
    if (file) file->whole = 1;
    pthread_mutex_unlock(&lock);
}

ssize_t copy_file_range(int in, off_t *in_at, int out, off_t *out_at, size_t size, unsigned flags) {
    ssize_t done = real_copy_file_range(in, in_at, out, out_at, size, flags);
    if (done > 0) all_dirty(out);
    return done;
}
ssize_t sendfile64(int out, int in, off_t *at, size_t size) {
    ssize_t done = real_sendfile64(out, in, at, size);
    if (done > 0) all_dirty(out);
    return done;
}
int ftruncate64(int fd, off_t length) {
    int result = real_ftruncate64(fd, length);
    if (result == 0) all_dirty(fd);
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off_t from, off_t length) {
    pthread_mutex_lock(&lock);
    struct stat found;
    struct file *file = tracked(fd, &found);
    int room = !file || fits(file, from + length);
    pthread_mutex_unlock(&lock);
    if (!room) return -1;
    int result = real_fallocate64(fd, mode, from, length);
    if (result == 0 && !(mode & FALLOC_FL_KEEP_SIZE)) all_dirty(fd);
    return result;
}
int fallocate(int fd, int mode, off_t from, off_t length) { return fallocate64(fd, mode, from, length); }

/* A change of names may reach the disk before anybody syncs the directory. */
static void leak_names(const char *path) {
    char parent[PATH_MAX];
    if (!realpath(path, parent)) {
        snprintf(parent, sizeof parent, "%s", path);
    }
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent) return;
    *slash = 0;
    if (below_root(parent) && leaks()) keep_names(parent);
}

static void bury(const char *path) {
    static unsigned long graves;
    struct stat found;
    if (!below_root(path) || lstat(path, &found) != 0 || !S_ISREG(found.st_mode)) return;
    char grave[PATH_MAX + 64];
    snprintf(grave, sizeof grave, "%s/grave/%lu-%lu", shadow, (unsigned long)found.st_ino, graves++);
    if (link(path, grave) != 0) fail(grave);
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    bury(to);
    int result = real_rename(from, to);
    int saved = errno;
    if (result == 0) leak_names(to);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}
int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    bury(path);
    int result = real_unlink(path);
    int saved = errno;
    if (result == 0) leak_names(path);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}
int unlinkat(int dir, const char *path, int flags) {
    if (!(flags & AT_REMOVEDIR)) {
        char link[64], full[PATH_MAX];
        ssize_t length = 0;
        if (dir != AT_FDCWD && path[0] != '/') {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            length = readlink(link, full, sizeof full - 1);
            if (length < 0) length = 0;
        }
        snprintf(full + length, sizeof full - (size_t)length, "%s%s", length ? "/" : "", path);
        pthread_mutex_lock(&lock);
        bury(full);
        pthread_mutex_unlock(&lock);
    }
    return real_unlinkat(dir, path, flags);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    int fresh = (flags & O_CREAT) && access(path, F_OK) != 0;
    int fd = real_open64(path, flags, mode);
    int saved = errno;
    if (fd >= 0 && (flags & O_TRUNC)) all_dirty(fd);
    if (fd >= 0 && fresh && below_root(path)) {
        pthread_mutex_lock(&lock);
        leak_names(path);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return fd;
}
int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    return open64(path, flags, mode);
}
