// Bad use of the library: each case must get an error, and end the process in no other way.

#include "pair.h"
#include <errno.h>
#include <sys/resource.h>

static pagelift_error ram_error(const pagelift_ram *ram)
{
    pagelift_error error;
    PAGELIFT_INIT(&error);
    CHECK(pagelift_ram_last_error(ram, &error) == PAGELIFT_CODE_OK);
    return error;
}

// Both ends, ready: the target waits, the source is not started.
struct pair {
    struct end source, target;
};

static void pair_make(struct pair *pair)
{
    memset(pair, 0, sizeof *pair);
    make_memory(&pair->source, true);
    make_memory(&pair->target, true);
    fill(&pair->source);
    pagelift_ram *here = describe(&pair->source), *there = describe(&pair->target);
    char address[300];
    arrive(&pair->target, NULL, there, address, sizeof address);
    leave(&pair->source, NULL, here, address);
    pagelift_ram_free(here);
    pagelift_ram_free(there);
}

static void pair_free(struct pair *pair)
{
    CHECK(pagelift_job_free(pair->source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_free(pair->target.job) == PAGELIFT_CODE_OK);
    free_memory(&pair->source);
    free_memory(&pair->target);
}

static void null_is_an_error(void)
{
    pagelift_error error;
    PAGELIFT_INIT(&error);
    CHECK(pagelift_ram_add(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_page_tables(NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_bitmap(NULL, 0, NULL, 0) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_callbacks(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_last_error(NULL, &error) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_free(NULL) == PAGELIFT_CODE_OK);
    CHECK(pagelift_outgoing_new(NULL, NULL, NULL, NULL, NULL) == NULL);
    CHECK(pagelift_incoming_new(NULL, NULL, NULL, NULL, &error) == NULL);
    CHECK(error.code == PAGELIFT_CODE_ARGUMENT && error.place == PAGELIFT_PLACE_NONE);
    CHECK(strstr(error.text, "pagelift_ram is null"));
    CHECK(pagelift_job_configure(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_add_property(NULL, NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_address(NULL, NULL, 0) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_limits(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_change(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_start(NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_fd(NULL) == -1);
    CHECK(pagelift_job_next_event(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_wait_event(NULL, 0, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_progress(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_cancel(NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_wait(NULL, 0) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_outcome(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_last_error(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_free(NULL) == PAGELIFT_CODE_OK);
    CHECK(pagelift_call_fail(NULL, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_call_write(NULL, NULL, 0) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_call_read(NULL, NULL, 0, NULL) == PAGELIFT_CODE_ARGUMENT);

    struct pair pair;
    pair_make(&pair);
    CHECK(pagelift_job_configure(pair.source.job, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_add_property(pair.source.job, "x", NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_address(pair.source.job, NULL, 100) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_limits(pair.source.job, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_change(pair.source.job, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_progress(pair.source.job, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_next_event(pair.target.job, NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_last_error(pair.source.job, NULL) == PAGELIFT_CODE_ARGUMENT);
    pair_free(&pair);
}

static void what_is_no_handle_is_noticed(void)
{
    uint64_t zeros[32] = {0};
    CHECK(pagelift_job_start((pagelift_job *)zeros) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_job_free((pagelift_job *)zeros) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_job_start((pagelift_job *)((char *)zeros + 3)) == PAGELIFT_CODE_HANDLE);
    pagelift_ram *ram = pagelift_ram_new();
    CHECK(pagelift_job_start((pagelift_job *)ram) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_job_fd((pagelift_job *)ram) == -1);
    CHECK(pagelift_call_fail((pagelift_call *)ram, "x") == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_ram_free(ram) == PAGELIFT_CODE_OK);
}

// Only of a library with debug assertions.
static void a_freed_handle_is_noticed(void)
{
    struct pair pair;
    pair_make(&pair);
    pair_free(&pair);
    CHECK(pagelift_job_start(pair.source.job) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_job_wait(pair.target.job, -1) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_job_free(pair.source.job) == PAGELIFT_CODE_HANDLE);
    pagelift_ram *ram = pagelift_ram_new();
    CHECK(pagelift_ram_free(ram) == PAGELIFT_CODE_OK);
    CHECK(pagelift_ram_free(ram) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_ram_track_page_tables(ram) == PAGELIFT_CODE_HANDLE);
}

static void structures_say_their_size(void)
{
    struct pair pair;
    pair_make(&pair);
    pagelift_options options;
    memset(&options, 0, sizeof options);
    CHECK(pagelift_job_configure(pair.source.job, &options) == PAGELIFT_CODE_ARGUMENT);
    CHECK(strstr(job_error(pair.source.job).text, "PAGELIFT_INIT"));
    struct {
        pagelift_options known;
        uint64_t newer;
    } later;
    memset(&later, 0, sizeof later);
    later.known.struct_size = sizeof later;
    CHECK(pagelift_job_configure(pair.source.job, &later.known) == PAGELIFT_CODE_OK);
    later.newer = 1;
    CHECK(pagelift_job_configure(pair.source.job, &later.known) == PAGELIFT_CODE_ARGUMENT);
    CHECK(strstr(job_error(pair.source.job).text, "does not know"));
    pair_free(&pair);
}

static int32_t add(pagelift_ram *ram, struct end *end, void (*change)(pagelift_region *))
{
    pagelift_region region;
    PAGELIFT_INIT(&region);
    region.name = "a";
    region.bytes = PAGE * PAGES;
    region.address = end->memory;
    region.in_file = 1;
    region.fd = end->fd;
    change(&region);
    return pagelift_ram_add(ram, &region);
}

static void no_name(pagelift_region *region) { region->name = NULL; }
static void not_text(pagelift_region *region) { region->name = "\xff"; }
static void no_length(pagelift_region *region) { region->bytes = 0; }
static void half_a_page(pagelift_region *region) { region->bytes = PAGE / 2; }
static void odd_page(pagelift_region *region) { region->page_bytes = 5000; }
static void odd_address(pagelift_region *region) { region->address = (char *)region->address + 8; }
static void odd_offset(pagelift_region *region) { region->offset = 100; }
static void no_descriptor(pagelift_region *region) { region->fd = -1; }
static void closed(pagelift_region *region) { region->fd = 1000; }
static void neither(pagelift_region *region) { region->in_file = 2; }
static void nowhere(pagelift_region *region) { region->in_file = 0, region->address = NULL; }
static void good(pagelift_region *region) { (void)region; }

static void regions_are_checked(void)
{
    struct end end = {0};
    make_memory(&end, true);
    pagelift_ram *ram = pagelift_ram_new();
    void (*const bad[])(pagelift_region *) = {no_name,    not_text,      no_length, half_a_page,
                                              odd_page,   odd_address,   odd_offset, no_descriptor,
                                              closed,     neither,       nowhere};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(add(ram, &end, bad[i]) == PAGELIFT_CODE_ARGUMENT);
        CHECK(ram_error(ram).text[0] != 0);
    }
    pagelift_source_callbacks guest = source_callbacks(&end);
    CHECK(pagelift_outgoing_new("tcp://127.0.0.1:1", NULL, ram, &guest, NULL) == NULL);
    CHECK(add(ram, &end, good) == PAGELIFT_CODE_OK);
    CHECK(add(ram, &end, good) == PAGELIFT_CODE_ARGUMENT);
    CHECK(strstr(ram_error(ram).text, "not unique"));
    uint64_t words[PAGES / 64];
    CHECK(pagelift_ram_track_bitmap(ram, 1, words, PAGES / 64) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_bitmap(ram, 0, words, PAGES / 64 - 1) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_bitmap(ram, 0, NULL, PAGES / 64) == PAGELIFT_CODE_ARGUMENT);
    pagelift_dirty_callbacks none;
    PAGELIFT_INIT(&none);
    CHECK(pagelift_ram_track_callbacks(ram, &none) == PAGELIFT_CODE_ARGUMENT);
    pagelift_ram_free(ram);
    free_memory(&end);
}

static void security_is_checked(void)
{
    struct end end = {0};
    make_memory(&end, true);
    pagelift_ram *ram = describe(&end);
    pagelift_target_callbacks target = target_callbacks(&end);
    pagelift_error error;
    PAGELIFT_INIT(&error);
    // Others could reach it.
    CHECK(pagelift_incoming_new("tcp://0.0.0.0:0", NULL, ram, &target, &error) == NULL);
    CHECK(error.code == PAGELIFT_CODE_ADDRESS && strstr(error.text, "beyond this host"));

    char token[33];
    CHECK(pagelift_token(NULL, 33) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_token(token, 32) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_token(token, 33) == PAGELIFT_CODE_OK && strlen(token) == 32);
    const char *nobody[] = {"sha256:12"};
    struct {
        pagelift_security given;
        int32_t code;
        const char *why;
    } bad[] = {
        {{.token = "secret"}, PAGELIFT_CODE_ARGUMENT, "hexadecimal"},
        {{.token = token, .tls_dir = "/"}, PAGELIFT_CODE_ARGUMENT, "more than one"},
        {{.token = token, .insecure = 1}, PAGELIFT_CODE_ARGUMENT, "more than one"},
        {{.insecure = 2}, PAGELIFT_CODE_ARGUMENT, "neither 0 nor 1"},
        {{.host_name = "x"}, PAGELIFT_CODE_ARGUMENT, "go with tls_dir"},
        {{.tls_dir = "/", .allowed_count = 1}, PAGELIFT_CODE_ARGUMENT, "allowed is null"},
        {{.tls_dir = "/", .allowed = nobody, .allowed_count = 1}, PAGELIFT_CODE_ARGUMENT, "64"},
        {{.tls_dir = "/nowhere"}, PAGELIFT_CODE_ADDRESS, "/nowhere"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bad[i].given.struct_size = sizeof bad[i].given;
        CHECK(!pagelift_incoming_new("tcp://127.0.0.1:0", &bad[i].given, ram, &target, &error));
        CHECK(error.code == bad[i].code && strstr(error.text, bad[i].why));
    }
    pagelift_security insecure;
    PAGELIFT_INIT(&insecure);
    insecure.insecure = 1;
    end.job = pagelift_incoming_new("tcp://0.0.0.0:0", &insecure, ram, &target, &error);
    CHECK(end.job && pagelift_job_free(end.job) == PAGELIFT_CODE_OK);
    pagelift_ram_free(ram);
    free_memory(&end);
}

// Runs both ends of a pair; the source ends in `code`, with `why` in its text.
static void ends_in(struct pair *pair, int32_t code, const char *why)
{
    CHECK(pagelift_job_start(pair->source.job) == PAGELIFT_CODE_OK);
    int32_t ended = pagelift_job_wait(pair->source.job, 60000);
    pagelift_error error = job_error(pair->source.job);
    if (ended != code || !strstr(error.text, why))
        fprintf(stderr, "%s: %s\n", pagelift_code_name(ended), error.text);
    CHECK(ended == code && error.code == code && strstr(error.text, why));
    CHECK(error.place == PAGELIFT_PLACE_SOURCE);
    CHECK(pagelift_job_wait(pair->target.job, 60000) != PAGELIFT_CODE_OK);
    CHECK(pair->target.ran == 0 && pair->source.relinquished == 0);
    CHECK(pair->source.finished == PAGELIFT_PLACE_SOURCE);
    CHECK(pair->target.finished == PAGELIFT_PLACE_SOURCE);
}

// A start that fails, for `code`.
static void cannot_start(pagelift_ram *ram, int32_t code, const char *why)
{
    struct end end = {0};
    leave(&end, NULL, ram, "tcp://127.0.0.1:1");
    CHECK(pagelift_job_start(end.job) == code);
    pagelift_error error = job_error(end.job);
    CHECK(error.code == code && error.place == PAGELIFT_PLACE_SOURCE && strstr(error.text, why));
    CHECK(pagelift_job_start(end.job) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_wait(end.job, -1) == code);
    CHECK(pagelift_job_free(end.job) == PAGELIFT_CODE_OK);
    CHECK(end.paused == 0 && end.finished == 0);
    pagelift_ram_free(ram);
}

static void memory_that_is_not_there_cannot_be_moved(void)
{
    struct end file = {0}, alone = {0};
    make_memory(&file, true);
    make_memory(&alone, false);
    // A file that is not mapped, said to be private memory: a mapping of a file, and nothing.
    struct end as_private = {.memory = file.memory, .fd = -1};
    cannot_start(describe(&as_private), PAGELIFT_CODE_ARGUMENT, "not mapped as private");
    munmap(alone.memory, PAGES * PAGE);
    alone.fd = -1;
    cannot_start(describe(&alone), PAGELIFT_CODE_ARGUMENT, "not mapped as private");
    // Longer than the file.
    CHECK(ftruncate(file.fd, PAGE) == 0);
    cannot_start(describe(&file), PAGELIFT_CODE_MEMORY, "the file has 4096 bytes");
    CHECK(ftruncate(file.fd, PAGES * PAGE) == 0);
    // Without an address, and a bitmap of one region of two.
    struct end nowhere = {.fd = file.fd};
    pagelift_ram *ram = describe(&file);
    uint64_t words[PAGES / 2 / 64];
    CHECK(pagelift_ram_track_bitmap(ram, 1, words, PAGES / 2 / 64) == PAGELIFT_CODE_OK);
    cannot_start(ram, PAGELIFT_CODE_DIRTY_TRACKING, "all of the region low");
    ram = pagelift_ram_new();
    pagelift_region region;
    PAGELIFT_INIT(&region);
    region.name = "ram", region.bytes = PAGE, region.in_file = 1, region.fd = nowhere.fd;
    CHECK(pagelift_ram_add(ram, &region) == PAGELIFT_CODE_OK);
    cannot_start(ram, PAGELIFT_CODE_DIRTY_TRACKING, "no address");
    free_memory(&file);
}

static void a_machine_is_checked(void)
{
    struct end end = {0};
    make_memory(&end, true);
    pagelift_ram *ram = describe(&end);
    pagelift_kvm_slot slots[2];
    for (unsigned half = 0; half < 2; half++) {
        PAGELIFT_INIT(&slots[half]);
        slots[half].slot = half;
        slots[half].bytes = PAGES / 2 * PAGE;
        slots[half].address = end.memory + half * slots[half].bytes;
    }
    CHECK(pagelift_ram_track_kvm(ram, -1, slots, 2) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_kvm(ram, 1000, slots, 2) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_ram_track_kvm(ram, end.fd, NULL, 1) == PAGELIFT_CODE_ARGUMENT);
    slots[1].bytes += PAGE;
    CHECK(pagelift_ram_track_kvm(ram, end.fd, slots, 2) == PAGELIFT_CODE_ARGUMENT);
    CHECK(strstr(ram_error(ram).text, "slot 1: its memory is in no region"));
    slots[1].bytes -= PAGE, slots[1].address = (char *)slots[1].address + 1;
    CHECK(pagelift_ram_track_kvm(ram, end.fd, slots, 2) == PAGELIFT_CODE_ARGUMENT);
    slots[1].address = (char *)slots[1].address - 1;

    // Rings of a machine that is none, of no vCPU, and of a length that none has.
    pagelift_error error;
    PAGELIFT_INIT(&error);
    int32_t fds[] = {end.fd, -1};
    CHECK(pagelift_kvm_rings_new(end.fd, NULL, 1, 16 << 10, &error) == NULL);
    CHECK(pagelift_kvm_rings_new(end.fd, fds, 0, 16 << 10, NULL) == NULL);
    CHECK(pagelift_kvm_rings_new(end.fd, fds, 1, 3000, &error) == NULL);
    CHECK(strstr(error.text, "no power of two"));
    CHECK(pagelift_kvm_rings_new(end.fd, fds, 2, 16 << 10, &error) == NULL);
    CHECK(strstr(error.text, "a vCPU's descriptor is -1"));
    CHECK(pagelift_kvm_rings_new(end.fd, fds, 1, 16 << 10, &error) == NULL);
    CHECK(error.code == PAGELIFT_CODE_DIRTY_TRACKING && strstr(error.text, "no dirty rings"));
    CHECK(pagelift_kvm_rings_reap(NULL) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_kvm_rings_reap((pagelift_kvm_rings *)ram) == PAGELIFT_CODE_HANDLE);
    CHECK(pagelift_kvm_rings_free(NULL) == PAGELIFT_CODE_OK);
    CHECK(pagelift_ram_track_kvm_rings(ram, NULL, slots, 2) == PAGELIFT_CODE_ARGUMENT);

    // One slot is not all memory, and a file is no machine.
    CHECK(pagelift_ram_track_kvm(ram, end.fd, slots, 1) == PAGELIFT_CODE_OK);
    cannot_start(ram, PAGELIFT_CODE_DIRTY_TRACKING, "all of the region high");

    struct pair pair;
    pair_make(&pair);
    pagelift_job_free(pair.source.job);
    ram = describe(&pair.source);
    slots[0].address = pair.source.memory;
    slots[1].address = pair.source.memory + slots[0].bytes;
    CHECK(pagelift_ram_track_kvm(ram, end.fd, slots, 2) == PAGELIFT_CODE_OK);
    char address[300];
    CHECK(pagelift_job_address(pair.target.job, address, sizeof address) == PAGELIFT_CODE_OK);
    leave(&pair.source, NULL, ram, address);
    pagelift_ram_free(ram);
    ends_in(&pair, PAGELIFT_CODE_DIRTY_TRACKING, "KVM_CHECK_EXTENSION");
    pair_free(&pair);
    free_memory(&end);
}

static void calls_in_the_wrong_order_do_nothing(void)
{
    struct pair pair;
    pair_make(&pair);
    pagelift_event event;
    PAGELIFT_INIT(&event);
    pagelift_outcome outcome;
    PAGELIFT_INIT(&outcome);
    pagelift_progress progress;
    PAGELIFT_INIT(&progress);
    pagelift_options options;
    PAGELIFT_INIT(&options);
    pagelift_job *job = pair.source.job;
    CHECK(pagelift_job_wait(job, -1) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_wait_event(job, -1, &event) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_next_event(job, &event) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_outcome(job, &outcome) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_fd(job) == -1);
    CHECK(pagelift_job_progress(job, &progress) == PAGELIFT_CODE_OK && progress.phase == 0);
    char small[5];
    CHECK(pagelift_job_address(job, small, sizeof small) == PAGELIFT_CODE_ARGUMENT);

    CHECK(pagelift_job_wait(pair.target.job, 1) == PAGELIFT_CODE_NOTHING);
    CHECK(pagelift_job_outcome(pair.target.job, &outcome) == PAGELIFT_CODE_NOTHING);
    CHECK(job_error(pair.target.job).code == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(job) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_configure(job, &options) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_add_property(job, "a", "b") == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_job_wait(job, 60000) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(job) == PAGELIFT_CODE_ORDER);
    int32_t last = 0;
    while (pagelift_job_wait_event(job, -1, &event) == PAGELIFT_CODE_OK)
        last = event.kind;
    CHECK(last == PAGELIFT_EVENT_KIND_ENDED);
    CHECK(pagelift_job_wait_event(job, -1, &event) == PAGELIFT_CODE_NOTHING);
    CHECK(pagelift_job_cancel(job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(job, 0) == PAGELIFT_CODE_OK);
    pair_free(&pair);
}

static void options_and_limits_are_checked(void)
{
    struct pair pair;
    pair_make(&pair);
    pagelift_options options;
    PAGELIFT_INIT(&options);
    options.channels = 65;
    CHECK(pagelift_job_configure(pair.source.job, &options) == PAGELIFT_CODE_ARGUMENT);
    options.channels = 1, options.compress = "gzip";
    CHECK(pagelift_job_configure(pair.source.job, &options) == PAGELIFT_CODE_ARGUMENT);
    CHECK(strstr(job_error(pair.source.job).text, "write auto, none, lz4"));
    options.compress = "zstd:3", options.dedup = "off", options.cpu_limit = "2,150%";
    CHECK(pagelift_job_configure(pair.source.job, &options) == PAGELIFT_CODE_OK);

    pagelift_limits before, after;
    PAGELIFT_INIT(&before);
    PAGELIFT_INIT(&after);
    CHECK(pagelift_job_limits(pair.source.job, &before) == PAGELIFT_CODE_OK);
    CHECK(before.downtime_us == 50000 && before.downtime_most_us == 50000);
    pagelift_limits bad = before;
    bad.downtime_most_us = 1;
    CHECK(pagelift_job_change(pair.source.job, &bad) == PAGELIFT_CODE_ARGUMENT);
    bad = before, bad.policy = 9;
    CHECK(pagelift_job_change(pair.source.job, &bad) == PAGELIFT_CODE_ARGUMENT);
    bad = before, bad.at_deadline = -1;
    CHECK(pagelift_job_change(pair.source.job, &bad) == PAGELIFT_CODE_ARGUMENT);
    bad = before, bad.throttle_most_permille = 1000;
    CHECK(pagelift_job_change(pair.source.job, &bad) == PAGELIFT_CODE_ARGUMENT);
    CHECK(pagelift_job_limits(pair.source.job, &after) == PAGELIFT_CODE_OK);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    before.downtime_us = 1000, before.downtime_most_us = 2000, before.deadline_us = 0;
    before.at_deadline = PAGELIFT_AT_DEADLINE_FORCE, before.policy = PAGELIFT_POLICY_CLASSIC;
    before.bytes_per_s = 1000000, before.throttle_most_permille = 500;
    CHECK(pagelift_job_change(pair.source.job, &before) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_limits(pair.source.job, &after) == PAGELIFT_CODE_OK);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    pair_free(&pair);
}

static void addresses_are_checked(void)
{
    struct end end = {0};
    make_memory(&end, true);
    pagelift_ram *ram = describe(&end);
    pagelift_source_callbacks source = source_callbacks(&end);
    pagelift_target_callbacks target = target_callbacks(&end);
    pagelift_error error;
    PAGELIFT_INIT(&error);
    const char *bad[] = {"127.0.0.1:7000", "nothing://host:1", "tcp://host.invalid:1", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(pagelift_outgoing_new(bad[i], NULL, ram, &source, &error) == NULL);
        CHECK(error.code == PAGELIFT_CODE_ADDRESS && error.text[0] != 0);
        CHECK(pagelift_incoming_new(bad[i], NULL, ram, &target, &error) == NULL);
        CHECK(error.code == PAGELIFT_CODE_ADDRESS);
    }
    source.relinquish = NULL;
    CHECK(pagelift_outgoing_new("tcp://127.0.0.1:1", NULL, ram, &source, &error) == NULL);
    CHECK(error.code == PAGELIFT_CODE_ARGUMENT && strstr(error.text, "relinquish is null"));
    target.run = NULL;
    CHECK(pagelift_incoming_new("tcp://127.0.0.1:0", NULL, ram, &target, &error) == NULL);
    CHECK(error.code == PAGELIFT_CODE_ARGUMENT && strstr(error.text, "run is null"));

    // Nobody listens there, which a retry may help.
    leave(&end, NULL, ram, "tcp://127.0.0.1:1");
    CHECK(pagelift_job_start(end.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(end.job, 60000) == PAGELIFT_CODE_LINK);
    error = job_error(end.job);
    CHECK(error.place == PAGELIFT_PLACE_SOURCE && error.retryable == 1);
    CHECK(pagelift_job_free(end.job) == PAGELIFT_CODE_OK);
    pagelift_ram_free(ram);
    free_memory(&end);
}

static void a_callback_that_fails_ends_the_migration(void)
{
    struct pair pair;
    pair_make(&pair);
    pair.source.pause_fails = "a vCPU hangs";
    ends_in(&pair, PAGELIFT_CODE_GUEST, "pause: a vCPU hangs");
    CHECK(pair.source.paused == 1);
    pair_free(&pair);

    pair_make(&pair);
    pair.source.save_fails = "a disk is gone";
    ends_in(&pair, PAGELIFT_CODE_GUEST, "save_devices: a disk is gone");
    CHECK(pair.source.resumed == 1);
    pair_free(&pair);

    pair_make(&pair);
    pair.target.load_fails = "no such device here";
    ends_in(&pair, PAGELIFT_CODE_PEER_ABORTED, "no such device here");
    CHECK(pair.source.resumed == 1);
    pair_free(&pair);
}

static void guests_that_differ_are_refused(void)
{
    struct pair pair;
    pair_make(&pair);
    CHECK(pagelift_job_add_property(pair.source.job, "machine", "c1") == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(pair.source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(pair.source.job, 60000) == PAGELIFT_CODE_REFUSED);
    pagelift_error error = job_error(pair.source.job);
    CHECK(error.place == PAGELIFT_PLACE_SOURCE && strstr(error.text, "machine"));
    CHECK(pair.source.paused == 0 && pair.source.finished == PAGELIFT_PLACE_SOURCE);
    // The target goes on waiting for a source whose guest fits.
    CHECK(pagelift_job_wait(pair.target.job, 0) == PAGELIFT_CODE_NOTHING);
    pair_free(&pair);
    CHECK(pair.target.ran == 0 && pair.target.finished == PAGELIFT_PLACE_SOURCE);
}

static pagelift_call *kept;

static void *from_another_thread(void *opaque)
{
    (void)opaque;
    CHECK(pagelift_call_fail(kept, "x") == PAGELIFT_CODE_ORDER);
    return NULL;
}

static void calls_back(struct end *end, pagelift_call *call)
{
    pagelift_event event;
    PAGELIFT_INIT(&event);
    CHECK(pagelift_job_wait(end->job, -1) == PAGELIFT_CODE_IN_CALLBACK);
    CHECK(pagelift_job_wait_event(end->job, -1, &event) == PAGELIFT_CODE_IN_CALLBACK);
    CHECK(pagelift_job_free(end->job) == PAGELIFT_CODE_IN_CALLBACK);
    CHECK(strstr(job_error(end->job).text, "return from it first"));
    // What does not wait is allowed.
    pagelift_limits limits;
    PAGELIFT_INIT(&limits);
    CHECK(pagelift_job_limits(end->job, &limits) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_change(end->job, &limits) == PAGELIFT_CODE_OK);
    pagelift_progress progress;
    PAGELIFT_INIT(&progress);
    CHECK(pagelift_job_progress(end->job, &progress) == PAGELIFT_CODE_OK);
    CHECK(progress.phase >= PAGELIFT_PHASE_PRECOPY);
    CHECK(pagelift_job_next_event(end->job, &event) == PAGELIFT_CODE_OK);
    pagelift_outcome outcome;
    PAGELIFT_INIT(&outcome);
    CHECK(pagelift_job_outcome(end->job, &outcome) == PAGELIFT_CODE_NOTHING);
    // Device state is not for this callback, and the call not for other threads.
    size_t count;
    CHECK(pagelift_call_write(call, "x", 1) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_call_read(call, &count, sizeof count, &count) == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_call_fail(call, NULL) == PAGELIFT_CODE_ARGUMENT);
    kept = call;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, from_another_thread, NULL) == 0);
    pthread_join(thread, NULL);
}

static void a_callback_may_call_back_but_not_wait(void)
{
    struct pair pair;
    pair_make(&pair);
    pair.source.in_pause = calls_back;
    CHECK(pagelift_job_start(pair.source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(pair.source.job, 60000) == PAGELIFT_CODE_OK);
    // After the callback has returned.
    CHECK(pagelift_call_fail(kept, "x") == PAGELIFT_CODE_ORDER);
    CHECK(pagelift_call_write(kept, "x", 1) == PAGELIFT_CODE_ORDER);
    pair_free(&pair);
}

static void cancels(struct end *end, pagelift_call *call)
{
    (void)call;
    CHECK(pagelift_job_cancel(end->job) == PAGELIFT_CODE_OK);
}

static void a_migration_can_be_cancelled_at_any_time(void)
{
    struct pair pair;
    pair_make(&pair);
    pair.source.in_pause = cancels;
    ends_in(&pair, PAGELIFT_CODE_CANCELLED, "cancelled");
    CHECK(pair.source.resumed == 1 && job_error(pair.source.job).retryable == 1);
    pair_free(&pair);

    pair_make(&pair);
    CHECK(pagelift_job_cancel(pair.source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(pair.source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(pair.source.job, 60000) == PAGELIFT_CODE_CANCELLED);
    CHECK(pagelift_job_cancel(pair.target.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(pair.target.job, 60000) == PAGELIFT_CODE_CANCELLED);
    pair_free(&pair);
}

static void a_job_that_is_freed_is_cancelled(void)
{
    struct pair pair;
    pair_make(&pair);
    pagelift_limits limits;
    PAGELIFT_INIT(&limits);
    CHECK(pagelift_job_limits(pair.source.job, &limits) == PAGELIFT_CODE_OK);
    limits.bytes_per_s = 100000;
    CHECK(pagelift_job_change(pair.source.job, &limits) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(pair.source.job) == PAGELIFT_CODE_OK);
    pagelift_event event;
    PAGELIFT_INIT(&event);
    while (event.phase != PAGELIFT_PHASE_PRECOPY)
        CHECK(pagelift_job_wait_event(pair.source.job, -1, &event) == PAGELIFT_CODE_OK);
    pair_free(&pair);
    CHECK(pair.source.finished == PAGELIFT_PLACE_SOURCE && pair.source.relinquished == 0);
    CHECK(pair.target.ran == 0);
}

// A process whose descriptors are all taken, but for a few.
static void a_job_starts_whole_or_not_at_all(void)
{
    const struct rlimit few = {.rlim_cur = 64, .rlim_max = 64};
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    for (size_t spare = 0; spare < 8; spare++) {
        struct pair pair;
        pair_make(&pair);
        int taken[64];
        size_t count = 0;
        while ((taken[count] = dup(2)) >= 0)
            count++;
        CHECK(errno == EMFILE && count > spare);
        for (size_t i = 0; i < spare; i++)
            close(taken[--count]);
        pagelift_code code = pagelift_job_start(pair.source.job);
        if (code == PAGELIFT_CODE_OK) {
            CHECK(pagelift_job_fd(pair.source.job) >= 0);
        } else {
            pagelift_error error = job_error(pair.source.job);
            CHECK(error.code == code && error.place == PAGELIFT_PLACE_SOURCE);
            // Nothing ran that had to be ended.
            CHECK(pair.source.finished == 0 && pair.source.progressed == 0);
            CHECK(pagelift_job_fd(pair.source.job) == -1);
        }
        CHECK(spare > 0 || code == PAGELIFT_CODE_SYSTEM);
        CHECK(spare < 7 || code == PAGELIFT_CODE_OK);
        while (count > 0)
            close(taken[--count]);
        pair_free(&pair);
    }
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {"null_is_an_error", null_is_an_error},
        {"what_is_no_handle_is_noticed", what_is_no_handle_is_noticed},
        {"a_freed_handle_is_noticed", a_freed_handle_is_noticed},
        {"structures_say_their_size", structures_say_their_size},
        {"regions_are_checked", regions_are_checked},
        {"memory_that_is_not_there_cannot_be_moved", memory_that_is_not_there_cannot_be_moved},
        {"a_machine_is_checked", a_machine_is_checked},
        {"security_is_checked", security_is_checked},
        {"calls_in_the_wrong_order_do_nothing", calls_in_the_wrong_order_do_nothing},
        {"options_and_limits_are_checked", options_and_limits_are_checked},
        {"addresses_are_checked", addresses_are_checked},
        {"a_callback_that_fails_ends_the_migration", a_callback_that_fails_ends_the_migration},
        {"guests_that_differ_are_refused", guests_that_differ_are_refused},
        {"a_callback_may_call_back_but_not_wait", a_callback_may_call_back_but_not_wait},
        {"a_migration_can_be_cancelled_at_any_time", a_migration_can_be_cancelled_at_any_time},
        {"a_job_that_is_freed_is_cancelled", a_job_that_is_freed_is_cancelled},
        {"a_job_starts_whole_or_not_at_all", a_job_starts_whole_or_not_at_all},
    };
    return run_case(cases, sizeof cases / sizeof *cases, argc, argv);
}
