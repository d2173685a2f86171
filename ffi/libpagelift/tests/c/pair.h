// Both ends of a migration in one process, for the tests.
#ifndef PAIR_H
#define PAIR_H

#define _GNU_SOURCE
#include <pagelift.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 2048u

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

// One end: its memory, what its callbacks do, and what they saw.
struct end {
    unsigned char *memory;
    int fd;
    pagelift_job *job;
    const char *pause_fails, *save_fails, *load_fails;
    void (*in_pause)(struct end *, pagelift_call *);
    atomic_int paused, resumed, relinquished, loaded, ran, progressed, finished;
    atomic_uint throttle;
};

static int32_t end_pause(void *opaque, pagelift_call *call)
{
    struct end *end = opaque;
    end->paused++;
    if (end->in_pause)
        end->in_pause(end, call);
    return end->pause_fails ? pagelift_call_fail(call, end->pause_fails) : PAGELIFT_CODE_OK;
}

static int32_t end_save(void *opaque, pagelift_call *call)
{
    struct end *end = opaque;
    for (uint32_t i = 0; i < 50000; i++)
        if (pagelift_call_write(call, &i, sizeof i) != PAGELIFT_CODE_OK)
            return 1;
    return end->save_fails ? pagelift_call_fail(call, end->save_fails) : PAGELIFT_CODE_OK;
}

static int32_t end_relinquish(void *opaque, pagelift_call *call)
{
    (void)call;
    ((struct end *)opaque)->relinquished++;
    return 0;
}

static int32_t end_resume(void *opaque, pagelift_call *call)
{
    (void)call;
    ((struct end *)opaque)->resumed++;
    return 0;
}

static int32_t end_throttle(void *opaque, uint32_t permille, pagelift_call *call)
{
    (void)call;
    ((struct end *)opaque)->throttle = permille;
    return 0;
}

static int32_t end_load(void *opaque, pagelift_call *call)
{
    struct end *end = opaque;
    unsigned char bytes[1000];
    uint32_t total = 0;
    for (size_t count = 1; count > 0;) {
        if (pagelift_call_read(call, bytes, sizeof bytes, &count) != PAGELIFT_CODE_OK)
            return 1;
        for (size_t i = 0; i < count; i++, total++)
            CHECK(bytes[i] == (unsigned char)(total / 4 >> total % 4 * 8));
    }
    CHECK(total == 200000);
    end->loaded++;
    return end->load_fails ? pagelift_call_fail(call, end->load_fails) : PAGELIFT_CODE_OK;
}

static int32_t end_run(void *opaque, pagelift_call *call)
{
    (void)call;
    ((struct end *)opaque)->ran++;
    return 0;
}

static void end_progress(void *opaque, const pagelift_progress *progress)
{
    CHECK(progress->struct_size == sizeof *progress);
    ((struct end *)opaque)->progressed++;
}

static void end_finish(void *opaque, int32_t place)
{
    ((struct end *)opaque)->finished = place;
}

static pagelift_source_callbacks source_callbacks(struct end *end)
{
    pagelift_source_callbacks guest;
    PAGELIFT_INIT(&guest);
    guest.opaque = end;
    guest.pause = end_pause;
    guest.save_devices = end_save;
    guest.relinquish = end_relinquish;
    guest.resume = end_resume;
    guest.throttle = end_throttle;
    guest.progress = end_progress;
    guest.finish = end_finish;
    return guest;
}

static pagelift_target_callbacks target_callbacks(struct end *end)
{
    pagelift_target_callbacks guest;
    PAGELIFT_INIT(&guest);
    guest.opaque = end;
    guest.load_devices = end_load;
    guest.run = end_run;
    guest.progress = end_progress;
    guest.finish = end_finish;
    return guest;
}

static void make_memory(struct end *end, bool in_file)
{
    end->fd = -1;
    if (in_file) {
        end->fd = memfd_create("end", MFD_CLOEXEC);
        CHECK(end->fd >= 0 && ftruncate(end->fd, PAGES * PAGE) == 0);
    }
    int flags = in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    end->memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, end->fd, 0);
    CHECK(end->memory != MAP_FAILED);
}

static void free_memory(struct end *end)
{
    munmap(end->memory, PAGES * PAGE);
    if (end->fd >= 0)
        close(end->fd);
}

static void fill(struct end *end)
{
    for (size_t i = 0; i < PAGES * PAGE; i++)
        end->memory[i] = (unsigned char)(i * 31 + i / PAGE);
}

// The first half and the second, as regions.
static pagelift_ram *describe(struct end *end)
{
    pagelift_ram *ram = pagelift_ram_new();
    for (unsigned half = 0; half < 2; half++) {
        pagelift_region region;
        PAGELIFT_INIT(&region);
        region.name = half ? "high" : "low";
        region.bytes = PAGES / 2 * PAGE;
        region.guest_address = half * 0x100000000;
        region.address = end->memory + half * region.bytes;
        region.in_file = end->fd >= 0;
        region.fd = end->fd;
        region.offset = end->fd >= 0 ? half * region.bytes : 0;
        CHECK(pagelift_ram_add(ram, &region) == PAGELIFT_CODE_OK);
    }
    return ram;
}

// A target that waits, and its address.
static void arrive(struct end *end, const pagelift_security *security, pagelift_ram *ram,
                   char *address, size_t room)
{
    pagelift_target_callbacks guest = target_callbacks(end);
    end->job = pagelift_incoming_new("tcp://127.0.0.1:0", security, ram, &guest, NULL);
    CHECK(end->job);
    CHECK(pagelift_job_address(end->job, address, room) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(end->job) == PAGELIFT_CODE_OK);
}

static void leave(struct end *end, const pagelift_security *security, pagelift_ram *ram,
                  const char *address)
{
    pagelift_source_callbacks guest = source_callbacks(end);
    end->job = pagelift_outgoing_new(address, security, ram, &guest, NULL);
    CHECK(end->job);
}

static pagelift_error job_error(const pagelift_job *job)
{
    pagelift_error error;
    PAGELIFT_INIT(&error);
    CHECK(pagelift_job_last_error(job, &error) == PAGELIFT_CODE_OK);
    return error;
}

// A case of a test program, and the program: it runs the case that it is named.
struct test_case {
    const char *name;
    void (*run)(void);
};

static int run_case(const struct test_case *cases, size_t count, int argc, char **argv)
{
    for (size_t i = 0; i < count; i++) {
        if (argc < 2) {
            puts(cases[i].name);
        } else if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            return 0;
        }
    }
    return argc < 2 ? 0 : 2;
}

#endif
