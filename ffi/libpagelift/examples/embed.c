// Moves a guest between two processes: ffi/libpagelift/examples/embed.c.
//
//     ffi/libpagelift/install
//     cc embed.c $(pkg-config --cflags --libs pagelift) -o embed && ./embed
//
// The guest is a thread that writes one page after the other of a shared memory file, and its device
// state is how many pages it wrote. This process takes the guest; a copy of it, which it starts with
// the address of the target, sends one.

#define _GNU_SOURCE
#include <inttypes.h>
#include <pagelift.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64 << 20 >> 12 };

// Memory, and a vCPU: whether it runs, and how many steps it did, each of which writes a page.
struct vm {
    int fd;
    unsigned char *memory;
    pthread_t vcpu;
    pthread_mutex_t lock;
    bool runs, ends;
    uint64_t steps;
};

static void *vcpu(void *opaque)
{
    struct vm *vm = opaque;
    for (bool ends = false; !ends;) {
        pthread_mutex_lock(&vm->lock);
        if (vm->runs) {
            volatile unsigned char *page = vm->memory + vm->steps % PAGES * PAGE;
            *page = (unsigned char)vm->steps++;
        }
        ends = vm->ends;
        pthread_mutex_unlock(&vm->lock);
    }
    return NULL;
}

static void set_running(struct vm *vm, bool runs)
{
    pthread_mutex_lock(&vm->lock);
    vm->runs = runs;
    pthread_mutex_unlock(&vm->lock);
}

static int32_t vm_pause(void *opaque, pagelift_call *call)
{
    (void)call;
    set_running(opaque, false);
    return 0;
}

static int32_t vm_save_devices(void *opaque, pagelift_call *call)
{
    struct vm *vm = opaque;
    return pagelift_call_write(call, &vm->steps, sizeof vm->steps);
}

static int32_t vm_relinquish(void *opaque, pagelift_call *call)
{
    (void)opaque, (void)call;
    return 0;
}

static int32_t vm_run(void *opaque, pagelift_call *call)
{
    (void)call;
    set_running(opaque, true);
    return 0;
}

static int32_t vm_load_devices(void *opaque, pagelift_call *call)
{
    struct vm *vm = opaque;
    unsigned char state[sizeof vm->steps + 1];
    size_t have = 0, more = 0;
    do {
        int32_t code = pagelift_call_read(call, state + have, sizeof state - have, &more);
        if (code != PAGELIFT_CODE_OK)
            return code;
    } while (more > 0 && (have += more) < sizeof state);
    if (have != sizeof vm->steps)
        return pagelift_call_fail(call, "device state of another length");
    memcpy(&vm->steps, state, have);
    return 0;
}

static void die(const char *what, const pagelift_error *error)
{
    fprintf(stderr, "%s: %s (the guest is at place %" PRId32 ")\n", what, error->text, error->place);
    exit(1);
}

static void die_of_job(const char *what, pagelift_job *job)
{
    pagelift_error error;
    PAGELIFT_INIT(&error);
    pagelift_job_last_error(job, &error);
    die(what, &error);
}

static void vm_start(struct vm *vm)
{
    vm->fd = memfd_create("guest", MFD_CLOEXEC);
    if (vm->fd < 0 || ftruncate(vm->fd, (off_t)PAGES * PAGE) != 0)
        exit(2);
    vm->memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vm->fd, 0);
    if (vm->memory == MAP_FAILED || pthread_create(&vm->vcpu, NULL, vcpu, vm) != 0)
        exit(2);
}

static pagelift_ram *describe(struct vm *vm)
{
    pagelift_ram *ram = pagelift_ram_new();
    pagelift_region region;
    PAGELIFT_INIT(&region);
    region.name = "ram";
    region.bytes = (uint64_t)PAGES * PAGE;
    region.address = vm->memory;
    region.in_file = 1;
    region.fd = vm->fd;
    if (pagelift_ram_add(ram, &region) != PAGELIFT_CODE_OK) {
        pagelift_error error;
        PAGELIFT_INIT(&error);
        pagelift_ram_last_error(ram, &error);
        die("the memory", &error);
    }
    return ram;
}

// Follows a job by its descriptor, as an event loop does, until it is over.
static void follow(pagelift_job *job)
{
    struct pollfd ready = {.fd = pagelift_job_fd(job), .events = POLLIN};
    pagelift_event event;
    PAGELIFT_INIT(&event);
    while (event.kind != PAGELIFT_EVENT_KIND_ENDED && poll(&ready, 1, -1) >= 0)
        while (pagelift_job_next_event(job, &event) == PAGELIFT_CODE_OK)
            if (event.kind == PAGELIFT_EVENT_KIND_PHASE && event.phase == PAGELIFT_PHASE_PRECOPY)
                printf("round %" PRIu32 "\n", event.round);
}

static void leave(struct vm *vm, const char *target)
{
    pagelift_source_callbacks guest;
    PAGELIFT_INIT(&guest);
    guest.opaque = vm;
    guest.pause = vm_pause;
    guest.save_devices = vm_save_devices;
    guest.relinquish = vm_relinquish;
    guest.resume = vm_run;

    pagelift_error error;
    PAGELIFT_INIT(&error);
    pagelift_ram *ram = describe(vm);
    pagelift_job *job = pagelift_outgoing_new(target, NULL, ram, &guest, &error);
    pagelift_ram_free(ram);
    if (job == NULL)
        die("the target", &error);

    pagelift_options options;
    PAGELIFT_INIT(&options);
    options.verify = 1;
    pagelift_limits limits;
    PAGELIFT_INIT(&limits);
    pagelift_job_limits(job, &limits);
    limits.downtime_us = limits.downtime_most_us = 100 * 1000;
    if (pagelift_job_configure(job, &options) != PAGELIFT_CODE_OK ||
        pagelift_job_change(job, &limits) != PAGELIFT_CODE_OK ||
        pagelift_job_start(job) != PAGELIFT_CODE_OK)
        die_of_job("the start", job);

    follow(job);
    if (pagelift_job_wait(job, -1) != PAGELIFT_CODE_OK)
        die_of_job("the migration", job);
    pagelift_outcome outcome;
    PAGELIFT_INIT(&outcome);
    pagelift_job_outcome(job, &outcome);
    printf("left: downtime %" PRIu64 " us, verified %" PRIu32 "\n", outcome.downtime_us,
           outcome.verified);
    pagelift_job_free(job);
}

static void arrive(struct vm *vm, const char *program)
{
    pagelift_target_callbacks guest;
    PAGELIFT_INIT(&guest);
    guest.opaque = vm;
    guest.load_devices = vm_load_devices;
    guest.run = vm_run;

    pagelift_error error;
    PAGELIFT_INIT(&error);
    pagelift_ram *ram = describe(vm);
    pagelift_job *job = pagelift_incoming_new("tcp://127.0.0.1:0", NULL, ram, &guest, &error);
    pagelift_ram_free(ram);
    if (job == NULL)
        die("listening", &error);
    char address[300];
    pagelift_job_address(job, address, sizeof address);
    pid_t source = fork();
    if (source == 0) {
        execlp(program, program, address, (char *)NULL);
        _exit(127);
    }

    int status = -1;
    if (pagelift_job_start(job) != PAGELIFT_CODE_OK ||
        pagelift_job_wait(job, -1) != PAGELIFT_CODE_OK)
        die_of_job("the migration", job);
    waitpid(source, &status, 0);
    pagelift_job_free(job);
    set_running(vm, false);
    printf("arrived: %" PRIu64 " steps; source: exit status %d\n", vm->steps, status);
}

int main(int argc, char **argv)
{
    struct vm vm = {.lock = PTHREAD_MUTEX_INITIALIZER};
    vm_start(&vm);
    if (argc > 1) {
        set_running(&vm, true);
        leave(&vm, argv[1]);
    } else {
        arrive(&vm, argv[0]);
    }
    pthread_mutex_lock(&vm.lock);
    vm.ends = true;
    pthread_mutex_unlock(&vm.lock);
    pthread_join(vm.vcpu, NULL);
    munmap(vm.memory, (size_t)PAGES * PAGE);
    close(vm.fd);
    return 0;
}
