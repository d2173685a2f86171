// A KVM machine for one kind of guest: each vCPU writes its own part of memory in user mode, over and over,
// and checks before each write that the page holds what it wrote there the last time.
//
// Step number n writes n to page n * 7919 modulo the number of pages, a power of two: so it comes back to a
// page after as many steps as there are pages. A write that was lost makes the guest stop by an illegal
// instruction, for which KVM shuts the machine down.

#define _GNU_SOURCE
#include "vm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// Where the guest has its page tables, its code, and the part of its first vCPU.
enum { TABLES = 0x1000, CODE = 0x8000, PARTS = 2 << 20 };

// Pages that a vCPU writes, and turns that it waits between two writes.
enum { PART_PAGES = 2048, WAIT = 20000 };

// rax: step; rdi: its part; rsi: PART_PAGES - 1; rcx: PART_PAGES; r11: WAIT; r10: 0.
extern const unsigned char guest_code[], guest_end[];
__asm__(".pushsection .rodata\n"
        "guest_code:\n"
        "1:  inc %rax\n"
        "    imul $7919, %rax, %rdx\n"
        "    and %rsi, %rdx\n"
        "    shl $12, %rdx\n"
        "    add %rdi, %rdx\n"
        "    mov %rax, %r8\n"
        "    sub %rcx, %r8\n"
        "    cmovbe %r10, %r8\n" // not written before
        "    cmp %r8, (%rdx)\n"
        "    jne 3f\n"
        "    mov %rax, (%rdx)\n"
        "    mov %r11, %r12\n"
        "2:  dec %r12\n"
        "    jnz 2b\n"
        "    jmp 1b\n"
        "3:  ud2\n"
        "guest_end:\n"
        ".popsection\n");

// Breaks a vCPU out of the guest: the call returns, and that is all.
static void kicked(int signal)
{
    (void)signal;
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct vm *vm = vcpu->vm;
    pthread_mutex_lock(&vm->lock);
    while (!vm->ends) {
        if (!vm->may_run || vm->failed) {
            vcpu->runs = false;
            pthread_cond_broadcast(&vm->changed);
            pthread_cond_wait(&vm->changed, &vm->lock);
            continue;
        }
        vcpu->runs = true;
        vcpu->run->immediate_exit = 0;
        struct timespec rest = {.tv_nsec = vm->permille * 10000L};
        pthread_mutex_unlock(&vm->lock);
        if (rest.tv_nsec > 0)
            nanosleep(&rest, NULL);
        int ran = ioctl(vcpu->fd, KVM_RUN, 0);
        bool full = ran == 0 && vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL;
        if (full && vm->ring_full)
            vm->ring_full(vm->ring_opaque);
        pthread_mutex_lock(&vm->lock);
        if (ran == 0 && !full && vcpu->run->exit_reason != KVM_EXIT_INTR)
            vm->failed = "the guest has lost a write";
    }
    vcpu->runs = false;
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

// Has all vCPUs leave the guest. The lock is held: one that is about to enter comes back at once.
static void kick(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        vm->vcpus[i].run->immediate_exit = 1;
        pthread_kill(vm->vcpus[i].thread, SIGUSR1);
    }
}

// Kicks throttled vCPUs every 10 ms, of which they then rest their share.
static void *throttle_main(void *opaque)
{
    struct vm *vm = opaque;
    pthread_mutex_lock(&vm->lock);
    while (!vm->ends) {
        if (vm->permille == 0 || !vm->may_run) {
            pthread_cond_wait(&vm->changed, &vm->lock);
            continue;
        }
        kick(vm);
        pthread_mutex_unlock(&vm->lock);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        pthread_mutex_lock(&vm->lock);
    }
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

void vm_throttle(struct vm *vm, unsigned permille)
{
    pthread_mutex_lock(&vm->lock);
    vm->permille = permille;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

void vm_pause(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->may_run = false;
    kick(vm);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        while (vm->vcpus[i].runs)
            pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

void vm_resume(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->may_run = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

static bool vcpu_make(struct vm *vm, unsigned number)
{
    struct vcpu *vcpu = &vm->vcpus[number];
    vcpu->vm = vm;
    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, number);
    if (vcpu->fd < 0)
        return false;
    vcpu->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    // What the processor can: the same on both sides.
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[100];
    } cpuid;
    cpuid.head.nent = 100;
    if (vcpu->run == MAP_FAILED || ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) != 0 ||
        ioctl(vcpu->fd, KVM_SET_CPUID2, &cpuid) != 0)
        return false;
    return pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu) == 0;
}

bool vm_make(struct vm *vm, unsigned vcpus, bool rings)
{
    memset(vm, 0, sizeof *vm);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    struct sigaction action = {.sa_handler = kicked};
    sigaction(SIGUSR1, &action, NULL);

    vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vm->fd = vm->kvm < 0 ? -1 : ioctl(vm->kvm, KVM_CREATE_VM, 0);
    vm->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    if (vm->fd < 0 || vm->memory_fd < 0 || ftruncate(vm->memory_fd, MEMORY_BYTES) != 0)
        return false;
    vm->memory =
        mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vm->memory_fd, 0);
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY_BYTES,
                                               .userspace_addr = (uint64_t)(uintptr_t)vm->memory};
    vm->run_bytes = (unsigned)ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (vm->memory == MAP_FAILED || ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xfffbd000) != 0 ||
        ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) != 0)
        return false;
    struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = {RING_BYTES}};
    if (rings && ioctl(vm->fd, KVM_ENABLE_CAP, &ring) != 0)
        return false;
    for (; vm->vcpu_count < vcpus; vm->vcpu_count++)
        if (!vcpu_make(vm, vm->vcpu_count))
            return false;
    return pthread_create(&vm->throttle, NULL, throttle_main, vm) == 0;
}

void vm_free(struct vm *vm)
{
    vm_pause(vm);
    pthread_mutex_lock(&vm->lock);
    vm->ends = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    pthread_join(vm->throttle, NULL);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        pthread_join(vm->vcpus[i].thread, NULL);
        munmap(vm->vcpus[i].run, vm->run_bytes);
        close(vm->vcpus[i].fd);
    }
    munmap(vm->memory, MEMORY_BYTES);
    close(vm->memory_fd);
    close(vm->fd);
    close(vm->kvm);
}

void vm_load_guest(struct vm *vm)
{
    // The first GiB, mapped to itself in pages of 2 MiB that user mode may write.
    enum { PRESENT = 1, WRITE = 2, USER = 4, ACCESSED = 32, DIRTY = 64, HUGE = 128 };
    uint64_t *tables = (uint64_t *)(void *)(vm->memory + TABLES);
    tables[0] = (TABLES + PAGE) | PRESENT | WRITE | USER | ACCESSED;
    tables[512] = (TABLES + 2 * PAGE) | PRESENT | WRITE | USER | ACCESSED;
    for (uint64_t i = 0; i < 512; i++)
        tables[1024 + i] = i << 21 | PRESENT | WRITE | USER | ACCESSED | DIRTY | HUGE;
    memcpy(vm->memory + CODE, guest_code, (size_t)(guest_end - guest_code));

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        // User mode in 64 bits.
        struct kvm_sregs sregs;
        ioctl(vm->vcpus[i].fd, KVM_GET_SREGS, &sregs);
        sregs.cr0 = 0x80050033;
        sregs.cr3 = TABLES;
        sregs.cr4 = 0x620;
        sregs.efer = 0x500;
        sregs.cs = (struct kvm_segment){.limit = ~0u, .selector = 0x33, .type = 11, .present = 1,
                                        .dpl = 3, .s = 1, .l = 1, .g = 1};
        sregs.ss = (struct kvm_segment){.limit = ~0u, .selector = 0x2b, .type = 3, .present = 1,
                                        .dpl = 3, .s = 1, .db = 1, .g = 1};
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
        struct kvm_regs regs = {.rip = CODE, .rflags = 2, .rsi = PART_PAGES - 1,
                                .rcx = PART_PAGES, .r11 = WAIT};
        regs.rdi = PARTS + (uint64_t)i * PART_PAGES * PAGE;
        if (ioctl(vm->vcpus[i].fd, KVM_SET_SREGS, &sregs) != 0 ||
            ioctl(vm->vcpus[i].fd, KVM_SET_REGS, &regs) != 0)
            vm->failed = "KVM refuses the registers";
    }
}

static struct kvm_msrs *tsc_msr(uint64_t value)
{
    static _Thread_local struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msrs;
    msrs.head.nmsrs = 1;
    msrs.entry.index = 0x10;
    msrs.entry.data = value;
    return &msrs.head;
}

bool vcpu_save(struct vcpu *vcpu, struct vcpu_state *state)
{
    memset(state, 0, sizeof *state);
    struct kvm_msrs *tsc = tsc_msr(0);
    if (ioctl(vcpu->fd, KVM_GET_REGS, &state->regs) != 0 ||
        ioctl(vcpu->fd, KVM_GET_SREGS, &state->sregs) != 0 ||
        ioctl(vcpu->fd, KVM_GET_XSAVE, &state->xsave) != 0 ||
        ioctl(vcpu->fd, KVM_GET_XCRS, &state->xcrs) != 0 ||
        ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events) != 0 ||
        ioctl(vcpu->fd, KVM_GET_MSRS, tsc) != 1)
        return false;
    state->tsc = tsc->entries[0].data;
    return true;
}

bool vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state)
{
    return ioctl(vcpu->fd, KVM_SET_SREGS, &state->sregs) == 0 &&
           ioctl(vcpu->fd, KVM_SET_REGS, &state->regs) == 0 &&
           ioctl(vcpu->fd, KVM_SET_XCRS, &state->xcrs) == 0 &&
           ioctl(vcpu->fd, KVM_SET_XSAVE, &state->xsave) == 0 &&
           ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &state->events) == 0 &&
           ioctl(vcpu->fd, KVM_SET_MSRS, tsc_msr(state->tsc)) == 1;
}

uint64_t vcpu_steps(struct vcpu *vcpu)
{
    struct kvm_regs regs = {0};
    ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    return regs.rax;
}
