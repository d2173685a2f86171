// A hypervisor on KVM that moves its guest live from process to process, by libpagelift.
//
//     hypervisor [VCPUS [HOPS [log|rings]]]
//
// Writes are tracked by KVM's dirty log or by its dirty rings. The first process starts the guest. Each moves it to a process of its own program, which it starts, and
// that goes on for HOPS hops. Where a move fails the guest stays. It checks its own memory all the time
// (vm.c), and whoever has it in the end says whether it is well.

#define _GNU_SOURCE
#include "vm.h"

#include <inttypes.h>
#include <pagelift.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { IN_DOUBT = 3, NO_KVM = 77, PATIENCE_MS = 2000 };

static int32_t guest_pause(void *opaque, pagelift_call *call)
{
    struct vm *vm = opaque;
    vm_pause(vm);
    return vm->failed ? pagelift_call_fail(call, vm->failed) : 0;
}

static int32_t guest_resume(void *opaque, pagelift_call *call)
{
    (void)call;
    vm_resume(opaque);
    return 0;
}

static int32_t guest_run(void *opaque, pagelift_call *call)
{
    fprintf(stderr, "granted to %ld\n", (long)getpid());
    return guest_resume(opaque, call);
}

static int32_t guest_relinquish(void *opaque, pagelift_call *call)
{
    // The vCPUs stand still, and nothing here makes them run again.
    (void)opaque, (void)call;
    return 0;
}

static int32_t guest_throttle(void *opaque, uint32_t permille, pagelift_call *call)
{
    (void)call;
    vm_throttle(opaque, permille);
    return 0;
}

static int32_t guest_save(void *opaque, pagelift_call *call)
{
    struct vm *vm = opaque;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu_state state;
        if (!vcpu_save(&vm->vcpus[i], &state))
            return pagelift_call_fail(call, "KVM does not give the state of a vCPU");
        if (pagelift_call_write(call, &state, sizeof state) != PAGELIFT_CODE_OK)
            return 1;
    }
    return 0;
}

static int32_t guest_load(void *opaque, pagelift_call *call)
{
    struct vm *vm = opaque;
    struct vcpu_state state;
    for (unsigned i = 0; i <= vm->vcpu_count; i++) {
        size_t have = 0, more = 0;
        do {
            char *into = (char *)&state + have;
            if (pagelift_call_read(call, into, sizeof state - have, &more) != PAGELIFT_CODE_OK)
                return 1;
        } while (more > 0 && (have += more) < sizeof state);
        // After the last vCPU there is nothing.
        if (have != (i < vm->vcpu_count ? sizeof state : 0))
            return pagelift_call_fail(call, "another number of vCPUs");
        if (have > 0 && !vcpu_load(&vm->vcpus[i], &state))
            return pagelift_call_fail(call, "KVM does not take the state of a vCPU");
    }
    return 0;
}

static void die(const char *what, const pagelift_error *error)
{
    fprintf(stderr, "%s: %s (%s)\n", what, error->text, pagelift_code_name(error->code));
    exit(1);
}

static void check(int32_t code, const char *what, pagelift_job *job)
{
    pagelift_error error;
    PAGELIFT_INIT(&error);
    if (code == PAGELIFT_CODE_OK)
        return;
    pagelift_job_last_error(job, &error);
    die(what, &error);
}

// The dirty rings of the machine; null if it is tracked by its log.
static pagelift_kvm_rings *rings;

static void empty_rings(void *opaque)
{
    struct vm *vm = opaque;
    if (pagelift_kvm_rings_reap(rings) != PAGELIFT_CODE_OK)
        vm->failed = "the dirty rings cannot be emptied";
}

static void use_rings(struct vm *vm)
{
    int32_t fds[MOST_VCPUS];
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        fds[i] = vm->vcpus[i].fd;
    pagelift_error error;
    PAGELIFT_INIT(&error);
    rings = pagelift_kvm_rings_new(vm->fd, fds, vm->vcpu_count, RING_BYTES, &error);
    if (rings == NULL)
        die("the dirty rings", &error);
    vm->ring_opaque = vm;
    vm->ring_full = empty_rings;
}

static int32_t track(struct vm *vm, pagelift_ram *ram)
{
    pagelift_kvm_slot slot;
    PAGELIFT_INIT(&slot);
    slot.bytes = MEMORY_BYTES;
    slot.address = vm->memory;
    return rings ? pagelift_ram_track_kvm_rings(ram, rings, &slot, 1)
                 : pagelift_ram_track_kvm(ram, vm->fd, &slot, 1);
}

// The memory, whose writes KVM knows.
static pagelift_ram *describe(struct vm *vm)
{
    pagelift_ram *ram = pagelift_ram_new();
    pagelift_region region;
    PAGELIFT_INIT(&region);
    region.name = "ram";
    region.bytes = MEMORY_BYTES;
    region.address = vm->memory;
    region.in_file = 1;
    region.fd = vm->memory_fd;
    if (pagelift_ram_add(ram, &region) != PAGELIFT_CODE_OK || track(vm, ram) != PAGELIFT_CODE_OK) {
        pagelift_error error;
        PAGELIFT_INIT(&error);
        pagelift_ram_last_error(ram, &error);
        die("the memory", &error);
    }
    return ram;
}

static uint64_t steps(struct vm *vm)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        sum += vcpu_steps(&vm->vcpus[i]);
    return sum;
}

// Moves the guest to the process that listens at `address`. Returns where it is then, a pagelift_place.
static int32_t leave(struct vm *vm, const char *address)
{
    pagelift_source_callbacks guest;
    PAGELIFT_INIT(&guest);
    guest.opaque = vm;
    guest.pause = guest_pause;
    guest.save_devices = guest_save;
    guest.relinquish = guest_relinquish;
    guest.resume = guest_resume;
    guest.throttle = guest_throttle;

    pagelift_error error;
    PAGELIFT_INIT(&error);
    pagelift_ram *ram = describe(vm);
    pagelift_job *job = pagelift_outgoing_new(address, NULL, ram, &guest, &error);
    pagelift_ram_free(ram);
    if (job == NULL)
        die("the target", &error);
    pagelift_options options;
    PAGELIFT_INIT(&options);
    options.verify = 1;
    check(pagelift_job_configure(job, &options), "the options", job);
    check(pagelift_job_start(job), "the start", job);
    int32_t code = pagelift_job_wait(job, -1);
    pagelift_outcome outcome;
    PAGELIFT_INIT(&outcome);
    check(pagelift_job_outcome(job, &outcome), "the outcome", job);
    pagelift_job_last_error(job, &error);
    if (code != PAGELIFT_CODE_OK)
        fprintf(stderr, "not left: %s (%s)\n", error.text, pagelift_code_name(code));
    else
        fprintf(stderr,
                "left after %" PRIu64 " steps: %" PRIu32 " rounds, downtime %" PRIu64 " us\n",
                steps(vm), outcome.rounds, outcome.downtime_us);
    pagelift_job_free(job);
    return outcome.place;
}

// Takes the guest from the process that reads the address from `out`.
static void arrive(struct vm *vm, int out)
{
    pagelift_target_callbacks guest;
    PAGELIFT_INIT(&guest);
    guest.opaque = vm;
    guest.load_devices = guest_load;
    guest.run = guest_run;

    pagelift_error error;
    PAGELIFT_INIT(&error);
    pagelift_ram *ram = describe(vm);
    pagelift_job *job = pagelift_incoming_new("tcp://127.0.0.1:0", NULL, ram, &guest, &error);
    pagelift_ram_free(ram);
    if (job == NULL)
        die("listening", &error);
    char address[300];
    check(pagelift_job_address(job, address, sizeof address), "the address", job);
    check(pagelift_job_start(job), "the start", job);
    dprintf(out, "%s\n", address);
    close(out);
    int32_t code;
    while ((code = pagelift_job_wait(job, PATIENCE_MS)) == PAGELIFT_CODE_NOTHING) {
        pagelift_progress progress;
        PAGELIFT_INIT(&progress);
        pagelift_job_progress(job, &progress);
        if (progress.phase <= PAGELIFT_PHASE_HANDSHAKE)
            pagelift_job_cancel(job); // nobody has come
    }
    check(code, "arriving", job);
    pagelift_job_free(job);
}

// Starts the next process, which makes `hops` hops more, and gives the address that it listens at: empty if
// it has ended before.
static pid_t start_next(char **argv, unsigned vcpus, unsigned hops, char address[300])
{
    int ends[2];
    if (pipe(ends) != 0)
        exit(2);
    pid_t next = fork();
    if (next == 0) {
        char vcpus_text[16], hops_text[16], out[16];
        snprintf(vcpus_text, sizeof vcpus_text, "%u", vcpus);
        snprintf(hops_text, sizeof hops_text, "%u", hops);
        snprintf(out, sizeof out, "%d", ends[1]);
        close(ends[0]);
        execlp(argv[0], argv[0], vcpus_text, hops_text, rings ? "rings" : "log", out, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *from = fdopen(ends[0], "r");
    if (from == NULL)
        exit(2);
    if (fgets(address, 300, from) == NULL)
        address[0] = 0;
    address[strcspn(address, "\n")] = 0;
    fclose(from);
    return next;
}

static void end(struct vm *vm)
{
    vm_free(vm);
    pagelift_kvm_rings_free(rings);
}

int main(int argc, char **argv)
{
    unsigned vcpus = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    unsigned hops = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    bool by_rings = argc > 3 && strcmp(argv[3], "rings") == 0;
    struct vm vm;
    if (vcpus < 1 || vcpus > MOST_VCPUS)
        return 2;
    alarm(60 + 10 * hops); // however it hangs
    if (!vm_make(&vm, vcpus, by_rings)) {
        perror("KVM cannot be used here");
        return NO_KVM;
    }
    if (by_rings)
        use_rings(&vm);
    if (argc > 4) {
        arrive(&vm, atoi(argv[4]));
    } else {
        vm_load_guest(&vm);
        vm_resume(&vm);
    }
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);

    if (hops > 0) {
        char address[300];
        pid_t next = start_next(argv, vcpus, hops - 1, address);
        int32_t place = address[0] ? leave(&vm, address) : PAGELIFT_PLACE_SOURCE;
        int status = 0;
        if (place != PAGELIFT_PLACE_SOURCE)
            end(&vm);
        waitpid(next, &status, 0);
        if (place == PAGELIFT_PLACE_TARGET)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        if (place == PAGELIFT_PLACE_UNKNOWN)
            return IN_DOUBT;
        fprintf(stderr, "stays\n");
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    vm_pause(&vm);
    printf("%s: %u vCPUs, %" PRIu64 " steps\n", vm.failed ? vm.failed : "the guest is well", vcpus,
           steps(&vm));
    int status = vm.failed != NULL;
    end(&vm);
    return status;
}
