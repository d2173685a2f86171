// Moves by every way in which writes are tracked, with a guest that writes meanwhile.

#include "pair.h"

// A guest that writes words over all its pages, and says so where it has to.
struct guest {
    struct end *end;
    pthread_t thread;
    pthread_mutex_t lock;
    bool stands, ends;
    _Atomic uint64_t bitmap[2][PAGES / 2 / 64];
    uint64_t writes;
};

static struct guest *running;

static void *writer(void *opaque)
{
    struct guest *guest = opaque;
    for (bool ends = false; !ends; usleep(50)) {
        pthread_mutex_lock(&guest->lock);
        for (int i = 0; i < 4 && !guest->stands; i++) {
            uint64_t page = guest->writes * 7919 % PAGES, half = page / (PAGES / 2);
            *(volatile uint64_t *)(guest->end->memory + page * PAGE + 8 * (guest->writes % 512)) =
                guest->writes;
            guest->writes++;
            uint64_t bit = page % (PAGES / 2);
            atomic_fetch_or_explicit(&guest->bitmap[half][bit / 64], UINT64_C(1) << bit % 64,
                                     memory_order_release);
        }
        ends = guest->ends;
        pthread_mutex_unlock(&guest->lock);
    }
    return NULL;
}

static void stand_still(struct end *end, pagelift_call *call)
{
    (void)end, (void)call;
    pthread_mutex_lock(&running->lock);
    running->stands = true;
    pthread_mutex_unlock(&running->lock);
}

// Moves a guest whose source is described by `track`, by TLS with a token, and compares the memories.
static void move(bool in_file, void (*track)(pagelift_ram *, struct guest *))
{
    struct end source = {0}, target = {0};
    char token[33];
    pagelift_security security;
    PAGELIFT_INIT(&security);
    CHECK(pagelift_token(token, sizeof token) == PAGELIFT_CODE_OK);
    security.token = token;
    struct guest guest = {.end = &source, .lock = PTHREAD_MUTEX_INITIALIZER};
    running = &guest;
    make_memory(&source, in_file);
    make_memory(&target, in_file);
    fill(&source);
    source.in_pause = stand_still;
    pagelift_ram *here = describe(&source), *there = describe(&target);
    if (track)
        track(here, &guest);
    char address[300];
    arrive(&target, &security, there, address, sizeof address);
    leave(&source, &security, here, address);
    pagelift_ram_free(here);
    pagelift_ram_free(there);
    CHECK(pthread_create(&guest.thread, NULL, writer, &guest) == 0);

    pagelift_options options;
    PAGELIFT_INIT(&options);
    options.verify = 1;
    options.channels = 2;
    options.compress = "lz4";
    CHECK(pagelift_job_configure(source.job, &options) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_start(source.job) == PAGELIFT_CODE_OK);
    if (pagelift_job_wait(source.job, 60000) != PAGELIFT_CODE_OK)
        fprintf(stderr, "%s\n", job_error(source.job).text);

    pagelift_outcome outcome;
    PAGELIFT_INIT(&outcome);
    CHECK(pagelift_job_outcome(source.job, &outcome) == PAGELIFT_CODE_OK);
    CHECK(outcome.code == PAGELIFT_CODE_OK && outcome.place == PAGELIFT_PLACE_TARGET);
    CHECK(outcome.verified == 1 && outcome.rounds >= 2 && outcome.downtime_us > 0);
    CHECK(outcome.guest_bytes == PAGES * PAGE && outcome.wire_bytes > 0);
    CHECK(pagelift_job_wait(target.job, 60000) == PAGELIFT_CODE_OK);
    CHECK(memcmp(source.memory, target.memory, PAGES * PAGE) == 0);
    CHECK(source.paused == 1 && source.relinquished == 1 && source.resumed == 0);
    CHECK(source.finished == PAGELIFT_PLACE_TARGET && target.finished == PAGELIFT_PLACE_TARGET);
    CHECK(target.loaded == 1 && target.ran == 1);
    CHECK(source.progressed > 0 && target.progressed > 0 && source.throttle == 0);
    CHECK(guest.writes > 0);

    guest.ends = true;
    pthread_join(guest.thread, NULL);
    CHECK(pagelift_job_free(source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_free(target.job) == PAGELIFT_CODE_OK);
    free_memory(&source);
    free_memory(&target);
}

static void by_default_in_a_file(void)
{
    move(true, NULL);
}

static void page_tables(pagelift_ram *ram, struct guest *guest)
{
    (void)guest;
    CHECK(pagelift_ram_track_page_tables(ram) == PAGELIFT_CODE_OK);
}

static void private_memory_by_page_tables(void)
{
    move(false, page_tables);
}

static void bitmaps(pagelift_ram *ram, struct guest *guest)
{
    for (uint32_t half = 0; half < 2; half++)
        CHECK(pagelift_ram_track_bitmap(ram, half, (uint64_t *)guest->bitmap[half],
                                        PAGES / 2 / 64) == PAGELIFT_CODE_OK);
}

static void by_bitmaps(void)
{
    move(true, bitmaps);
}

static void private_memory_by_bitmaps(void)
{
    move(false, bitmaps);
}

static atomic_int started, stopped;

static int32_t start(void *opaque, pagelift_call *call)
{
    (void)opaque, (void)call;
    started++;
    return 0;
}

static int32_t harvest(void *opaque, uint32_t region, uint64_t *bitmap, size_t words,
                       pagelift_call *call)
{
    (void)call;
    struct guest *guest = opaque;
    CHECK(region < 2 && words == PAGES / 2 / 64);
    for (size_t i = 0; i < words; i++)
        bitmap[i] = atomic_exchange(&guest->bitmap[region][i], 0);
    return 0;
}

static void stop(void *opaque)
{
    (void)opaque;
    stopped++;
}

static void callbacks(pagelift_ram *ram, struct guest *guest)
{
    pagelift_dirty_callbacks dirty;
    PAGELIFT_INIT(&dirty);
    dirty.opaque = guest;
    dirty.start = start;
    dirty.harvest = harvest;
    dirty.stop = stop;
    CHECK(pagelift_ram_track_callbacks(ram, &dirty) == PAGELIFT_CODE_OK);
}

static void by_callbacks(void)
{
    move(true, callbacks);
    CHECK(started == 1 && stopped == 1);
}

static void both(pagelift_ram *ram, struct guest *guest)
{
    callbacks(ram, guest);
    page_tables(ram, guest);
}

static void by_callbacks_and_page_tables(void)
{
    move(true, both);
}

static void another_token_does_not_get_in(void)
{
    struct end source = {0}, target = {0};
    make_memory(&source, true);
    make_memory(&target, true);
    pagelift_ram *here = describe(&source), *there = describe(&target);
    pagelift_security security;
    PAGELIFT_INIT(&security);
    char address[300];
    security.token = "00112233445566778899aabbccddeeff";
    arrive(&target, &security, there, address, sizeof address);
    security.token = "00112233445566778899aabbccddeef0";
    leave(&source, &security, here, address);
    CHECK(pagelift_job_start(source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_wait(source.job, 60000) == PAGELIFT_CODE_LINK);
    CHECK(strstr(job_error(source.job).text, "token"));
    CHECK(pagelift_job_wait(target.job, 0) == PAGELIFT_CODE_NOTHING);
    CHECK(pagelift_job_free(source.job) == PAGELIFT_CODE_OK);
    CHECK(pagelift_job_free(target.job) == PAGELIFT_CODE_OK);
    CHECK(source.paused == 0 && target.loaded == 0);
    pagelift_ram_free(here);
    pagelift_ram_free(there);
    free_memory(&source);
    free_memory(&target);
}

int main(int argc, char **argv)
{
    const struct test_case cases[] = {
        {"by_default_in_a_file", by_default_in_a_file},
        {"private_memory_by_page_tables", private_memory_by_page_tables},
        {"by_bitmaps", by_bitmaps},
        {"private_memory_by_bitmaps", private_memory_by_bitmaps},
        {"by_callbacks", by_callbacks},
        {"by_callbacks_and_page_tables", by_callbacks_and_page_tables},
        {"another_token_does_not_get_in", another_token_does_not_get_in},
    };
    return run_case(cases, sizeof cases / sizeof *cases, argc, argv);
}
