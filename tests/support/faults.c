/* Gives a process a sick disk or another time: preloaded (LD_PRELOAD), told by a file that its maker can change.
 *
 * The file named by KUBE_AUDIT_PROXY_FAULTS holds six 64-bit integers: nanoseconds that are added to the time of day,
 * and to the time that only goes forward; the errno that every sync fails with, or 0; milliseconds that every sync
 * takes longer; how many syncs there were, which is counted here; and how many times faster than it is the kernel's own
 * time goes by when it is about peers that say nothing, or 0. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults {
    volatile int64_t wall_ns, monotonic_ns, sync_errno, sync_ms, syncs, hurry;
};

static struct faults none, *told = &none;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fdatasync)(int), (*real_fsync)(int);
static int (*real_getsockopt)(int, int, int, void *restrict, socklen_t *restrict);
static int (*real_setsockopt)(int, int, int, const void *, socklen_t);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("KUBE_AUDIT_PROXY_FAULTS");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_getsockopt = dlsym(RTLD_NEXT, "getsockopt");
    real_setsockopt = dlsym(RTLD_NEXT, "setsockopt");
    if (file >= 0) {
        void *map = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (map != MAP_FAILED)
            told = map;
        close(file);
    }
}

static int64_t shift(clockid_t clock)
{
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        return told->wall_ns;
    if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW
        || clock == CLOCK_BOOTTIME)
        return told->monotonic_ns;
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    /* Others' constructors may ask before ours has run. */
    if (!real_clock_gettime)
        real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, now);
    int64_t by = result ? 0 : shift(clock);

    if (by) {
        int64_t at = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + by;
        now->tv_sec = at / 1000000000;
        now->tv_nsec = at % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec at;

    clock_gettime(CLOCK_REALTIME, &at);
    if (now)
        *now = at.tv_sec;
    return at.tv_sec;
}

static int sync_file(int (*real)(int), int file)
{
    int64_t ms = told->sync_ms, error = told->sync_errno;

    __atomic_add_fetch(&told->syncs, 1, __ATOMIC_RELAXED);
    if (ms)
        usleep((useconds_t)(ms * 1000));
    if (error) {
        errno = (int)error;
        return -1;
    }
    return real(file);
}

int fdatasync(int file)
{
    return sync_file(real_fdatasync, file);
}

int fsync(int file)
{
    return sync_file(real_fsync, file);
}

int setsockopt(int socket, int level, int option, const void *value, socklen_t size)
{
    int64_t hurry = told->hurry;

    if (hurry && level == IPPROTO_TCP && (option == TCP_KEEPIDLE || option == TCP_KEEPINTVL) && size == sizeof(int)) {
        int seconds = (int)(*(const int *)value / hurry);

        seconds = seconds < 1 ? 1 : seconds;
        return real_setsockopt(socket, level, option, &seconds, size);
    }
    return real_setsockopt(socket, level, option, value, size);
}

int getsockopt(int socket, int level, int option, void *restrict value, socklen_t *restrict size)
{
    int result = real_getsockopt(socket, level, option, value, size);

    if (!result && told->hurry && level == IPPROTO_TCP && option == TCP_INFO) {
        struct tcp_info *info = value;
        int64_t retransmits = info->tcpi_retransmits * told->hurry;

        info->tcpi_retransmits = retransmits > UINT8_MAX ? UINT8_MAX : (uint8_t)retransmits;
        info->tcpi_last_ack_recv *= (uint32_t)told->hurry;
    }
    return result;
}
