// libpagelift: live migration of virtual machines, for hypervisors in C.
//
// Made by cbindgen from ffi/libpagelift/src: do not edit. The guide is docs/embedding.md.
//
// A guest is described by a pagelift_ram (its memory) and by callbacks (its hypervisor). A
// pagelift_job moves it: out, or in. Functions return a pagelift_code; the last error of a handle is
// there in full by pagelift_ram_last_error and pagelift_job_last_error.
//
// Structures begin with their size. Set them up by PAGELIFT_INIT, which makes all else zero: every
// zero means the default. A structure of an older or newer header is then read as it was meant, or
// refused.
//
// Bad use gets an error where C allows it: null, calls in the wrong order, callbacks that fail or
// call back. It does not where a pointer leads to memory that is not there, a string has no end, or
// a handle is used after it was freed: builds of the library with debug assertions notice the
// last, others mostly.

#ifndef PAGELIFT_H
#define PAGELIFT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Sets up a structure, given its address.
#define PAGELIFT_INIT(pointer) \
    (memset((pointer), 0, sizeof *(pointer)), (void)((pointer)->struct_size = sizeof *(pointer)))

// Version of this header: raised when anything that is there changes. It is the number in the name
// of the shared library, libpagelift.so.1.
#define PAGELIFT_ABI_MAJOR 1

// Raised when something is added: functions, constants, fields at the end of a structure.
#define PAGELIFT_ABI_MINOR 1

// Bytes of the text of an error, its end included. Longer ones are cut.
#define PAGELIFT_ERROR_TEXT_BYTES 1004

// What a function returns, and what a migration ended in.
enum pagelift_code
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It worked.
    PAGELIFT_CODE_OK = 0,
    // An argument is null, out of range, or not what is asked for. Nothing was done.
    PAGELIFT_CODE_ARGUMENT = 1,
    // The pointer is no handle, or one that was freed.
    PAGELIFT_CODE_HANDLE = 2,
    // Not now: the job was started already, or was not started yet.
    PAGELIFT_CODE_ORDER = 3,
    // Called from a callback of the job that the call would have to wait for.
    PAGELIFT_CODE_IN_CALLBACK = 4,
    // There is nothing yet, or the time is up. Not kept as the last error.
    PAGELIFT_CODE_NOTHING = 5,
    // A bug in pagelift: it panicked. The message is on standard error.
    PAGELIFT_CODE_PANIC = 6,
    // The address of the target leads nowhere, or nobody can listen there.
    PAGELIFT_CODE_ADDRESS = 7,
    // The kernel refused a thread, a descriptor, or memory.
    PAGELIFT_CODE_SYSTEM = 8,
    // The connection could not be made, or was lost.
    PAGELIFT_CODE_LINK = 20,
    // Nothing was heard from the other side for too long.
    PAGELIFT_CODE_PEER_SILENT = 21,
    // The other side sent bytes that are damaged, or no message.
    PAGELIFT_CODE_MALFORMED = 22,
    // The other side broke the protocol.
    PAGELIFT_CODE_PEER_MISBEHAVED = 23,
    // The target cannot take this guest; the text has all reasons.
    PAGELIFT_CODE_REFUSED = 24,
    // The other side ended the migration.
    PAGELIFT_CODE_PEER_ABORTED = 25,
    // A callback has failed.
    PAGELIFT_CODE_GUEST = 26,
    // The guest has ended on the source: it does not run anywhere.
    PAGELIFT_CODE_GUEST_ENDED = 27,
    // Something happened to the guest for which it was to stay.
    PAGELIFT_CODE_GUEST_STAYS = 28,
    // Guest memory cannot be read or written.
    PAGELIFT_CODE_MEMORY = 29,
    // Writes cannot be tracked.
    PAGELIFT_CODE_DIRTY_TRACKING = 30,
    // It cannot be completed within its limits; the text says what would help.
    PAGELIFT_CODE_NOT_CONVERGING = 31,
    // It was cancelled.
    PAGELIFT_CODE_CANCELLED = 32,
    // The memories differ at the switchover: the guest was not handed over.
    PAGELIFT_CODE_DIGEST_MISMATCH = 33,
    // The sides lost each other during the hand-over.
    PAGELIFT_CODE_IN_DOUBT = 34,
    // Something else; the text says what.
    PAGELIFT_CODE_OTHER = 35,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pagelift_code pagelift_code;
#else
typedef int32_t pagelift_code;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Where the guest is after a migration.
enum pagelift_place
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The error is not about a migration that has begun.
    PAGELIFT_PLACE_NONE = 0,
    // It runs, or may be resumed, where it was.
    PAGELIFT_PLACE_SOURCE = 1,
    // It runs where it was sent.
    PAGELIFT_PLACE_TARGET = 2,
    // It cannot be known: start it on neither side before somebody has found out.
    PAGELIFT_PLACE_UNKNOWN = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pagelift_place pagelift_place;
#else
typedef int32_t pagelift_place;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What is done about a guest that writes faster than the link carries.
enum pagelift_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Throttled as little as will do.
    PAGELIFT_POLICY_PREDICTIVE = 0,
    // Throttled more and more, as QEMU's auto-converge does.
    PAGELIFT_POLICY_CLASSIC = 1,
    // Never throttled. What a job does whose guest has no callback throttle.
    PAGELIFT_POLICY_NONE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pagelift_policy pagelift_policy;
#else
typedef int32_t pagelift_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What happens when the deadline has come.
enum pagelift_at_deadline
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The migration ends, and the guest stays.
    PAGELIFT_AT_DEADLINE_CANCEL = 0,
    // The throttle ends; the guest moves as soon as it fits the downtime by itself.
    PAGELIFT_AT_DEADLINE_STOP_TRYING = 1,
    // The guest moves, however long the downtime.
    PAGELIFT_AT_DEADLINE_FORCE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pagelift_at_deadline pagelift_at_deadline;
#else
typedef int32_t pagelift_at_deadline;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// The phase of a migration, as this side sees it. Between two looks phases may have been skipped.
enum pagelift_phase
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // It has not begun.
    PAGELIFT_PHASE_NONE = 0,
    // The sides do not know yet whether the guest fits; a target waits for its source.
    PAGELIFT_PHASE_HANDSHAKE = 1,
    // The side prepares its memory.
    PAGELIFT_PHASE_PREPARING = 2,
    // The guest runs on the source, and its pages are sent, round after round.
    PAGELIFT_PHASE_PRECOPY = 3,
    // The guest is being stopped.
    PAGELIFT_PHASE_STOPPING = 4,
    // It stands still, and the pages it wrote last are sent.
    PAGELIFT_PHASE_LAST_ROUND = 5,
    // The device state is saved, sent and loaded.
    PAGELIFT_PHASE_DEVICE_STATE = 6,
    // The target has everything; the guest is the source's until it says otherwise.
    PAGELIFT_PHASE_READY = 7,
    // The source has relinquished the guest, and the target is to run it.
    PAGELIFT_PHASE_HANDING_OVER = 8,
    // The guest runs on the target.
    PAGELIFT_PHASE_COMPLETED = 9,
    // The migration ended without completing.
    PAGELIFT_PHASE_FAILED = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pagelift_phase pagelift_phase;
#else
typedef int32_t pagelift_phase;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What has happened.
enum pagelift_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // The migration entered a phase. Each round of precopy is one.
    PAGELIFT_EVENT_KIND_PHASE = 1,
    // The guest is throttled by another share.
    PAGELIFT_EVENT_KIND_THROTTLED = 2,
    // On the target: the source is lost during the hand-over, and waited for.
    PAGELIFT_EVENT_KIND_SOURCE_LOST = 3,
    // On the target: the source that was lost is back.
    PAGELIFT_EVENT_KIND_SOURCE_BACK = 4,
    // The migration is over: pagelift_job_wait says how. The last event.
    PAGELIFT_EVENT_KIND_ENDED = 5,
    // Something that this version has no name for.
    PAGELIFT_EVENT_KIND_OTHER = 6,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pagelift_event_kind pagelift_event_kind;
#else
typedef int32_t pagelift_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A call of a callback. Valid until the callback returns, in its thread.
typedef struct pagelift_call pagelift_call;

// A migration, of a guest that leaves or of one that arrives.
// Several threads may call its functions at once.
typedef struct pagelift_job pagelift_job;

// The dirty rings of a KVM machine. One for the life of the machine: it knows how far each was read.
// Several threads may call its functions at once.
typedef struct pagelift_kvm_rings pagelift_kvm_rings;

// A description of a guest's RAM.
typedef struct pagelift_ram pagelift_ram;

// How the two sides know each other, and what protects the guest on the way. Both choose the same. At
// most one of token, tls_dir and insecure is given; with none, only addresses of this host are allowed.
typedef struct pagelift_security {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // A token that both sides have, such as pagelift_token makes: 32 to 128 hexadecimal digits. TLS 1.3.
    const char *token;
    // A directory with certificates, as the programs take by --tls-dir. TLS 1.3.
    const char *tls_dir;
    // With tls_dir, on a source: whom the target's certificate must be for, if not the host of its
    // address. May be null.
    const char *host_name;
    // With tls_dir: of those whom the authority vouches for, only these may take part, each
    // "sha256:FINGERPRINT", or a host name or address. Null: all.
    const char *const *allowed;
    // How many texts `allowed` has.
    uint64_t allowed_count;
    // 1: in clear, to anywhere. Whoever reaches the target can feed it a guest, and whoever is on the
    // path reads the guest's memory.
    uint64_t insecure;
} pagelift_security;

// A callback that returns 0, or what it returned from pagelift_call_fail, or another number.
typedef int32_t (*pagelift_callback)(void *opaque, struct pagelift_call *call);

// Where a migration is. What is not known, or does not concern this side, is 0.
typedef struct pagelift_progress {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // A pagelift_phase.
    int32_t phase;
    // The round of precopy, from 1.
    uint32_t round;
    // Bytes of pages on the wire so far.
    uint64_t wire_bytes;
    // Bytes of guest memory that the round has still to send.
    uint64_t left_bytes;
    // Bytes of distinct pages that the guest writes in a second.
    uint64_t dirty_bytes_per_s;
    // Bytes that the target places in a second.
    uint64_t link_bytes_per_s;
    // The downtime if the guest were paused now, in microseconds.
    uint64_t forecast_us;
    // The downtime that is allowed by now, in microseconds.
    uint64_t downtime_us;
    // Share of its time that the guest is kept from running, 0 to 990 thousandths.
    uint32_t throttle_permille;
    // 1 if the guest is paused although the forecast is longer than is allowed, else 0.
    uint32_t forced;
} pagelift_progress;

// Told where a migration is: often, so never wait there.
typedef void (*pagelift_progress_callback)(void *opaque, const struct pagelift_progress *progress);

// Told that a migration is over, and where the guest is, a pagelift_place. The last call.
typedef void (*pagelift_finish_callback)(void *opaque, int32_t place);

// The guest on the source. The callbacks follow each other like this; those that are null are left
// out, but the first four must be there:
//
// ```text
// (running) -> pause -> save_devices -> relinquish -> finish(TARGET)
//                |           |              |
//                +-----------+--------------+--> resume -> finish(SOURCE)
// ```
typedef struct pagelift_source_callbacks {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // Given to each callback.
    void *opaque;
    // Stops the vCPUs and quiesces the devices. No memory of the guest changes once it has returned.
    // If it fails the guest still runs.
    pagelift_callback pause;
    // Writes the device state by pagelift_call_write. All memory is at the target.
    pagelift_callback save_devices;
    // Makes sure that the guest never runs here again: the target is ready for it. If it fails the
    // guest can be resumed; when it has returned 0 the guest belongs to the target.
    pagelift_callback relinquish;
    // Lets the guest go on here: the migration failed after pause.
    pagelift_callback resume;
    // Whether the guest is still there. Asked many times a second. If it fails, the guest has ended.
    pagelift_callback check;
    // Keeps every vCPU from running for `permille` of its time, 0 to 990, until it is called again.
    // Without it, a guest that writes faster than the link carries is not slowed down.
    int32_t (*throttle)(void *opaque, uint32_t permille, struct pagelift_call *call);
    // Where the migration is.
    pagelift_progress_callback progress;
    // The migration is over.
    pagelift_finish_callback finish;
} pagelift_source_callbacks;

// An error in full.
typedef struct pagelift_error {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // A pagelift_code; PAGELIFT_CODE_OK if nothing has failed yet.
    int32_t code;
    // A pagelift_place: where the guest is now.
    int32_t place;
    // 1 if the same may succeed later with nothing changed but the moment, else 0.
    uint32_t retryable;
    // What failed, why, and the way out: for people, in English, UTF-8, ended by a zero byte.
    char text[PAGELIFT_ERROR_TEXT_BYTES];
} pagelift_error;

// The guest on the target. load_devices and run must be there:
//
// ```text
// load_devices -> run -> finish(TARGET), or finish(SOURCE) or finish(UNKNOWN) instead
// ```
typedef struct pagelift_target_callbacks {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // Given to each callback.
    void *opaque;
    // Loads the device state by pagelift_call_read, up to its end. All memory is there. If it fails
    // the guest stays on the source.
    pagelift_callback load_devices;
    // Runs the guest: it is this side's now, also if it does not run. Called once, and only after the
    // source has relinquished the guest.
    pagelift_callback run;
    // Whether the hypervisor that is to take the guest is still there. Asked many times a second. If
    // it fails the migration ends.
    pagelift_callback check;
    // Where the migration is.
    pagelift_progress_callback progress;
    // The migration is over.
    pagelift_finish_callback finish;
} pagelift_target_callbacks;

// How a migration ended. What this side does not know is 0.
typedef struct pagelift_outcome {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // A pagelift_code: PAGELIFT_CODE_OK if the guest has moved.
    int32_t code;
    // A pagelift_place: where the guest is.
    int32_t place;
    // 1 if the same may succeed later with nothing changed but the moment, else 0.
    uint32_t retryable;
    // Rounds, the last included.
    uint32_t rounds;
    // 1 if the digests of all memory were compared, and equal, else 0.
    uint32_t verified;
    // 1 if the guest was paused at the deadline although that was longer than is allowed, else 0.
    uint32_t forced;
    // From the beginning to the guest running on the target, in microseconds. Of a source.
    uint64_t total_us;
    // The guest's standstill, in microseconds. Of a source.
    uint64_t downtime_us;
    // Size of the guest's memory in bytes. Of a source.
    uint64_t guest_bytes;
    // Bytes of pages on the wire.
    uint64_t wire_bytes;
} pagelift_outcome;

// Limits that may be changed while the guest moves. pagelift_job_limits gives those in force.
typedef struct pagelift_limits {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // Longest downtime allowed at first, in microseconds.
    uint64_t downtime_us;
    // Longest downtime once it has grown, which it does while rounds get nowhere. Not less.
    uint64_t downtime_most_us;
    // Longest time from the beginning to the guest's pause, in microseconds. 0: none.
    uint64_t deadline_us;
    // A pagelift_at_deadline.
    int32_t at_deadline;
    // A pagelift_policy.
    int32_t policy;
    // Cap on everything that is sent, in bytes per second. 0: as fast as the link carries.
    uint64_t bytes_per_s;
    // The strongest throttle, 1 to 990 thousandths of the guest's time. 0: the policy's own.
    uint64_t throttle_most_permille;
} pagelift_limits;

// What is set before the start, of a guest that leaves. Zeros and nulls mean the default.
typedef struct pagelift_options {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // Data connections, 1 to 64. 0: one for each processor, at most 8.
    uint32_t channels;
    // 1: the digests of all memory are compared before the hand-over, which lengthens the downtime by
    // the time to read all memory.
    uint32_t verify;
    // "auto" (the default), "none", "lz4", "zstd", "zstd:LEVEL" (-50 to 19) or "xbzrle".
    const char *compress;
    // "auto" (the default), "on" or "off": whether pages that the target has already are not sent.
    const char *dedup;
    // Most threads and processor time of the data connections: "2", "150%" or "2,150%". Null: no limit.
    const char *cpu_limit;
    // Bytes for the contents that deltas are made against. 0: room for all pages, but at most an
    // eighth of the memory available.
    uint64_t delta_cache_bytes;
} pagelift_options;

// Something that happened in a migration. At most 256 wait to be taken; then the oldest are dropped.
typedef struct pagelift_event {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // A pagelift_event_kind.
    int32_t kind;
    // The pagelift_phase of PAGELIFT_EVENT_KIND_PHASE; else 0.
    int32_t phase;
    // The round of PAGELIFT_PHASE_PRECOPY, from 1; else 0.
    uint32_t round;
    // The share of PAGELIFT_EVENT_KIND_THROTTLED, 0 to 990 thousandths; else 0.
    uint32_t throttle_permille;
} pagelift_event;

// One contiguous piece of guest memory. Both sides describe the same regions, in the same order.
typedef struct pagelift_region {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // The name both sides know it by, 1 to 255 bytes of UTF-8, unique.
    const char *name;
    // Its length: whole pages of page_bytes.
    uint64_t bytes;
    // Bytes of one page of the memory behind it: 4096, or a huge page's size. 0 means 4096.
    uint64_t page_bytes;
    // Where the guest has it. If it is not 0, it must be the same on both sides.
    uint64_t guest_address;
    // Where this process has it mapped. May be null for memory in a file on a target, or if page
    // tables are not what tracks its writes.
    void *address;
    // 1: in the file `fd`, which is mapped as shared memory. 0: private anonymous memory.
    uint32_t in_file;
    // A memfd, or a file on tmpfs or hugetlbfs, for reading and writing. The library keeps its own copy.
    int32_t fd;
    // Byte of the file at which it begins: whole pages.
    uint64_t offset;
} pagelift_region;

// Writes that a hypervisor knows of.
typedef struct pagelift_dirty_callbacks {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // Given to each callback.
    void *opaque;
    // Tracking begins: every write from its return on is to be reported. May be null.
    pagelift_callback start;
    // Sets the bits of pages of 4096 bytes of region number `region` that were written since the last
    // time: page n is bit n % 64 of bitmap[n / 64]. Marks are cleared before it returns, so that a later
    // write counts for the next time. The bitmap is zero, and has `words` words.
    int32_t (*harvest)(void *opaque,
                       uint32_t region,
                       uint64_t *bitmap,
                       size_t words,
                       struct pagelift_call *call);
    // Tracking ends. May be null.
    void (*stop)(void *opaque);
} pagelift_dirty_callbacks;

// A slot of a KVM machine, as KVM_SET_USER_MEMORY_REGION was told of it.
typedef struct pagelift_kvm_slot {
    // Bytes of this structure, as PAGELIFT_INIT sets it.
    size_t struct_size;
    // Its number.
    uint32_t slot;
    // Its flags. KVM_MEM_LOG_DIRTY_PAGES is the library's to set and to take away.
    uint32_t flags;
    // guest_phys_addr.
    uint64_t guest_address;
    // memory_size.
    uint64_t bytes;
    // userspace_addr: within a region, whose address it counts from.
    void *address;
} pagelift_kvm_slot;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the interface that the library has: 65536 times the major number, plus the minor.
// From any thread.
uint32_t pagelift_abi(void);

// The version of pagelift, such as "0.1.0". A constant string. From any thread.
const char *pagelift_version(void);

// Says why a callback has failed, in words for people. Returns PAGELIFT_CODE_GUEST, for the callback
// to return.
//
// # Threads
// In the thread of the callback, until it returns.
//
// # Safety
// `call` is what the callback was given; `reason` is null or a string.
pagelift_code pagelift_call_fail(struct pagelift_call *call,
                                 const char *reason);

// Writes `length` bytes of device state, in save_devices. Waits while the connection is full. When it
// fails, the callback returns: the migration ends, whatever it returns.
//
// # Threads
// In the thread of the callback, until it returns.
//
// # Safety
// `call` is what the callback was given; `length` bytes can be read at `bytes`.
pagelift_code pagelift_call_write(struct pagelift_call *call,
                                  const void *bytes,
                                  size_t length);

// Reads up to `room` bytes of device state, in load_devices; `read` says how many were read, none at
// the end. Waits until there are some. All must be read before load_devices returns.
//
// # Threads
// In the thread of the callback, until it returns.
//
// # Safety
// `call` is what the callback was given; `room` bytes can be written at `bytes`, and a number at `read`.
pagelift_code pagelift_call_read(struct pagelift_call *call,
                                 void *bytes,
                                 size_t room,
                                 size_t *read);

// The name of a pagelift_code, such as "not-converging". A constant string. From any thread.
const char *pagelift_code_name(int32_t code);

// A guest that is to leave: it runs here, `ram` is its memory, and a target waits for it at `target`,
// such as "tcp://host:7000". Names are looked up now; connections are made when it is started. Without
// `security` only addresses of this host are allowed. Free it with pagelift_job_free.
//
// # Errors
// Null, and the reason in `error` unless that is null.
//
// # Threads
// From any thread.
//
// # Safety
// All arguments can be read; `security` and `error` may be null, and are otherwise set up by
// PAGELIFT_INIT, as `guest` is. What the callbacks need is there until the job has been freed.
struct pagelift_job *pagelift_outgoing_new(const char *target,
                                           const struct pagelift_security *security,
                                           const struct pagelift_ram *ram,
                                           const struct pagelift_source_callbacks *guest,
                                           struct pagelift_error *error);

// A guest that is to arrive, into the memory `ram`: listens at `address` from now on, such as
// "tcp://127.0.0.1:0", where port 0 lets the kernel choose one. Without `security` only addresses of this
// host are allowed. Free it with pagelift_job_free.
//
// # Errors
// Null, and the reason in `error` unless that is null.
//
// # Threads
// From any thread.
//
// # Safety
// As for pagelift_outgoing_new.
struct pagelift_job *pagelift_incoming_new(const char *address,
                                           const struct pagelift_security *security,
                                           const struct pagelift_ram *ram,
                                           const struct pagelift_target_callbacks *guest,
                                           struct pagelift_error *error);

// Writes the address to give to the source, or the one that was given, to `text`, which has `room`
// bytes, and ends it by a zero byte.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT when there is not enough room; 300 bytes always are.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `room` bytes can be written at `text`.
pagelift_code pagelift_job_address(const struct pagelift_job *job, char *text, size_t room);

// Ends the migration: a guest that leaves is at full speed here within 100 ms, unless it was handed
// over already. Does not wait. Before the start, the migration ends as soon as it is started.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `job` is a handle.
pagelift_code pagelift_job_cancel(struct pagelift_job *job);

// Writes the last error of `job` to `error`: of a call that failed, or of the migration, once
// pagelift_job_wait has returned it.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `error` was set up by PAGELIFT_INIT.
pagelift_code pagelift_job_last_error(const struct pagelift_job *job, struct pagelift_error *error);

// Frees a job, or nothing if it is null. One that runs is cancelled and waited for: callbacks are called
// meanwhile, and none afterwards.
//
// # Errors
// PAGELIFT_CODE_IN_CALLBACK from a callback of this job. The job is then still there.
//
// # Threads
// From any thread but that of a callback of this job, when no other call uses the job.
//
// # Safety
// No other call uses the job, now or later.
pagelift_code pagelift_job_free(struct pagelift_job *job);

// Waits until the migration is over, for at most `timeout_ms` milliseconds, forever if that is less
// than 0. Returns how it ended: PAGELIFT_CODE_OK if the guest has moved. May be called again.
//
// # Errors
// What the migration ended in, which is then the last error of `job`; PAGELIFT_CODE_NOTHING when the time
// is up; PAGELIFT_CODE_ORDER before the start; PAGELIFT_CODE_IN_CALLBACK from a callback of this job.
//
// # Threads
// From any thread but that of a callback of this job.
//
// # Safety
// `job` is a handle.
pagelift_code pagelift_job_wait(struct pagelift_job *job,
                                int64_t timeout_ms);

// Writes how the migration ended to `outcome`. Does not wait.
//
// # Errors
// PAGELIFT_CODE_NOTHING while it runs; PAGELIFT_CODE_ORDER before the start.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `outcome` was set up by PAGELIFT_INIT.
pagelift_code pagelift_job_outcome(const struct pagelift_job *job,
                                   struct pagelift_outcome *outcome);

// Writes the limits as they were last asked for to `limits`.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `limits` was set up by PAGELIFT_INIT.
pagelift_code pagelift_job_limits(const struct pagelift_job *job, struct pagelift_limits *limits);

// Changes the limits, at any time. While the guest moves they are in force at once; after its pause only
// the cap on the rate is, and after the hand-over none. On a target they have no effect.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT with what is wrong; nothing is changed.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `limits` comes from pagelift_job_limits.
pagelift_code pagelift_job_change(struct pagelift_job *job,
                                  const struct pagelift_limits *limits);

// Sets options of a guest that leaves, before the start. Those of a target are ignored.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT with what is wrong; nothing is changed.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `options` was set up by PAGELIFT_INIT; its texts can be read.
pagelift_code pagelift_job_configure(struct pagelift_job *job,
                                     const struct pagelift_options *options);

// Adds something that must be the same on both sides, such as a machine type, before the start. A target
// that has it otherwise refuses the guest.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// Both texts can be read.
pagelift_code pagelift_job_add_property(struct pagelift_job *job,
                                        const char *name,
                                        const char *value);

// Writes where the migration is to `progress`; that of one that has ended stays.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `progress` was set up by PAGELIFT_INIT.
pagelift_code pagelift_job_progress(const struct pagelift_job *job,
                                    struct pagelift_progress *progress);

// Starts the migration, in threads of its own, and returns at once. A target begins to wait for its
// source. A job is started once.
//
// # Errors
// PAGELIFT_CODE_ORDER when it was started before; PAGELIFT_CODE_MEMORY, _DIRTY_TRACKING or _SYSTEM when
// what it needs is not to be had. The guest is then where it was, and the job has ended.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `job` is a handle.
pagelift_code pagelift_job_start(struct pagelift_job *job);

// A descriptor that is readable while an event waits to be taken, for poll(2) or epoll(7); -1 before
// the start. It is the job's: do not read or close it.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `job` is a handle, or null.
int32_t pagelift_job_fd(const struct pagelift_job *job);

// Writes the oldest event that was not taken yet to `event`. Does not wait.
//
// # Errors
// PAGELIFT_CODE_NOTHING when there is none; PAGELIFT_CODE_ORDER before the start.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `event` was set up by PAGELIFT_INIT.
pagelift_code pagelift_job_next_event(const struct pagelift_job *job, struct pagelift_event *event);

// Waits for the next event for at most `timeout_ms` milliseconds, forever if that is less than 0, and
// writes it to `event`.
//
// # Errors
// PAGELIFT_CODE_NOTHING when the time is up, and after the last event; PAGELIFT_CODE_ORDER before the
// start; PAGELIFT_CODE_IN_CALLBACK from a callback of this job.
//
// # Threads
// From any thread but that of a callback of this job.
//
// # Safety
// `event` was set up by PAGELIFT_INIT.
pagelift_code pagelift_job_wait_event(const struct pagelift_job *job,
                                      int64_t timeout_ms,
                                      struct pagelift_event *event);

// A description without a region. Free it with pagelift_ram_free.
//
// # Threads
// From any thread.
struct pagelift_ram *pagelift_ram_new(void);

// Adds a region. All are in files, or none is.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT when sizes and places are no whole pages, a name is no name or is there
// already, or `fd` is no descriptor.
//
// # Threads
// From any thread.
//
// # Safety
// Private memory stays mapped at `address`, in full, readable and writable, until every job that is made
// of this description has been freed. `region` and its name can be read.
pagelift_code pagelift_ram_add(struct pagelift_ram *ram,
                               const struct pagelift_region *region);

// Writes the last error of `ram` to `error`.
//
// # Threads
// From any thread.
//
// # Safety
// `error` was set up by PAGELIFT_INIT.
pagelift_code pagelift_ram_last_error(const struct pagelift_ram *ram, struct pagelift_error *error);

// Frees a description, or nothing if it is null. Jobs that were made of it have their own.
//
// # Threads
// From any thread, when no other call uses the description.
//
// # Safety
// No other call uses it, now or later.
pagelift_code pagelift_ram_free(struct pagelift_ram *ram);

// Makes a random token, for both sides of one migration, and writes it to `text`, which has `room`
// bytes: 33 are enough. It is a secret.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT when there is not enough room, PAGELIFT_CODE_SYSTEM without random numbers.
//
// # Threads
// From any thread, also from callbacks.
//
// # Safety
// `room` bytes can be written at `text`.
pagelift_code pagelift_token(char *text,
                             size_t room);

// Tracks writes by the page tables of this process, with a userfaultfd of its own: writes of its
// threads, of its KVM vCPUs, and of the kernel for it. Linux 6.7 or newer. This is what a source does if
// no other way is named. Each region has an address.
//
// # Threads
// From any thread.
//
// # Safety
// `ram` is a handle.
pagelift_code pagelift_ram_track_page_tables(struct pagelift_ram *ram);

// Tracks writes by a bitmap of pages of 4096 bytes of region number `region`, from 0. A writer first
// writes, and then sets bit n % 64 of words[n / 64] by an atomic operation with release order, such as
// atomic_fetch_or. The library takes bits away by atomic operations too.
//
// # Threads
// From any thread.
//
// # Safety
// The words are there until every job that is made of this description has been freed, and are changed
// by atomic operations alone while one runs.
pagelift_code pagelift_ram_track_bitmap(struct pagelift_ram *ram,
                                        uint32_t region,
                                        uint64_t *words,
                                        size_t count);

// Tracks writes by callbacks. They are called in the thread of the job.
//
// # Threads
// From any thread.
//
// # Safety
// `callbacks` was set up by PAGELIFT_INIT; what it names is there until every job that is made of this
// description has been freed.
pagelift_code pagelift_ram_track_callbacks(struct pagelift_ram *ram,
                                           const struct pagelift_dirty_callbacks *callbacks);

// Tracks writes by KVM's dirty log: what the vCPUs of the machine `vm_fd` write to `count` slots. Writes of
// the hypervisor's own devices are to be tracked as well, by a bitmap for one. Marks are cleared by hand
// where the kernel can (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, which stays enabled). The library keeps its own
// copy of the descriptor.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT when a slot's memory is not in one region, or the descriptor is none.
//
// # Threads
// From any thread.
//
// # Safety
// `slots` points to `count` structures that were set up by PAGELIFT_INIT. The machine is one of this
// process, and has these slots, as described, until every job that is made of this description has been
// freed: another number would be mapped anew, and another guest address would move its memory.
pagelift_code pagelift_ram_track_kvm(struct pagelift_ram *ram,
                                     int32_t vm_fd,
                                     const struct pagelift_kvm_slot *slots,
                                     size_t count);

// The rings of the machine `vm_fd`, one for each of its `count` vCPUs, which KVM_ENABLE_CAP was told to give
// `ring_bytes` each before the vCPUs were made (KVM_CAP_DIRTY_LOG_RING_ACQ_REL). The library keeps its own
// copy of the descriptors. Free them with pagelift_kvm_rings_free.
//
// Where KVM_RUN returns with KVM_EXIT_DIRTY_RING_FULL, call pagelift_kvm_rings_reap and run the vCPU again.
//
// # Errors
// Null, and the reason in `error` unless that is null.
//
// # Threads
// From any thread.
//
// # Safety
// `vcpu_fds` points to `count` descriptors, of all vCPUs in the order of their index. Rings that are
// shorter than `ring_bytes` kill the process. Nobody else takes entries out. `error` is null, or was set up
// by PAGELIFT_INIT.
struct pagelift_kvm_rings *pagelift_kvm_rings_new(int32_t vm_fd,
                                                  const int32_t *vcpu_fds,
                                                  size_t count,
                                                  uint64_t ring_bytes,
                                                  struct pagelift_error *error);

// Empties all rings, so that vCPUs whose rings were full can run again. What was written is not lost: a
// job that tracks by the rings sends it.
//
// # Threads
// From any thread, those of vCPUs above all; not from a callback.
//
// # Safety
// `rings` is a handle.
pagelift_code pagelift_kvm_rings_reap(const struct pagelift_kvm_rings *rings);

// Tracks writes by dirty rings: what vCPUs write to `count` slots. Writes of the hypervisor's own devices
// are to be tracked as well, by a bitmap for one. As each vCPU is counted, the throttle slows down those
// that write. One job at a time can track by the rings.
//
// # Errors
// PAGELIFT_CODE_ARGUMENT when a slot's memory is not in one region.
//
// # Threads
// From any thread.
//
// # Safety
// As for pagelift_ram_track_kvm; and the slots are of the machine that the rings were made for.
pagelift_code pagelift_ram_track_kvm_rings(struct pagelift_ram *ram,
                                           const struct pagelift_kvm_rings *rings,
                                           const struct pagelift_kvm_slot *slots,
                                           size_t count);

// Writes the last error of `rings` to `error`.
//
// # Threads
// From any thread.
//
// # Safety
// `error` was set up by PAGELIFT_INIT.
pagelift_code pagelift_kvm_rings_last_error(const struct pagelift_kvm_rings *rings,
                                            struct pagelift_error *error);

// Frees rings, or nothing if they are null. Jobs that track by them go on, but vCPUs whose rings are full
// then run on only when a job next looks.
//
// # Threads
// From any thread, when no other call uses the rings.
//
// # Safety
// No other call uses them, now or later.
pagelift_code pagelift_kvm_rings_free(struct pagelift_kvm_rings *rings);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PAGELIFT_H */
