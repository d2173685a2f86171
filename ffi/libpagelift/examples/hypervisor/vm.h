// A small KVM machine: memory, vCPUs, and a guest that proves its own memory.
#ifndef VM_H
#define VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { PAGE = 4096, MOST_VCPUS = 4, MEMORY_BYTES = 64 << 20, RING_BYTES = 16 << 10 };

struct vcpu {
    struct vm *vm;
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    bool runs;
};

struct vm {
    int kvm, fd;
    int memory_fd;
    unsigned char *memory;
    unsigned vcpu_count, run_bytes;
    struct vcpu vcpus[MOST_VCPUS];
    void (*ring_full)(void *opaque); // empties the dirty rings, if there are some
    void *ring_opaque;
    pthread_t throttle;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool may_run, ends;
    unsigned permille; // of its time that each vCPU is kept from running
    const char *failed; // why the guest, or KVM, has stopped for good
};

// What a vCPU is, apart from memory.
struct vcpu_state {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_xsave xsave;
    struct kvm_xcrs xcrs;
    struct kvm_vcpu_events events;
    uint64_t tsc;
};

// Makes a machine whose vCPUs stand still, each with a dirty ring of RING_BYTES if `rings`. False if KVM
// cannot be used here, or has no rings.
bool vm_make(struct vm *vm, unsigned vcpus, bool rings);
void vm_free(struct vm *vm);

// Puts the guest into the memory, and its vCPUs to its beginning.
void vm_load_guest(struct vm *vm);

void vm_resume(struct vm *vm);
void vm_pause(struct vm *vm);
void vm_throttle(struct vm *vm, unsigned permille);

// Of vCPUs that stand still. False if KVM refuses.
bool vcpu_save(struct vcpu *vcpu, struct vcpu_state *state);
bool vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state);

// Steps that a vCPU which stands still has done.
uint64_t vcpu_steps(struct vcpu *vcpu);

#endif
