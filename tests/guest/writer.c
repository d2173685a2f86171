/* The writer: the one program of the test guest.
 *
 * It fills memory with content that no codec can shrink, writes to it at a given rate, and
 * checks all the while that every page holds what it must. A page write lost by a migration is
 * found by the guest itself, within pages / pl.check ticks, or at once by `verify`.
 *
 * Parameters, from the kernel command line (sizes in bytes, k, M and G are binary):
 *   pl.fill=BYTES       memory to fill                                   (default 64M)
 *   pl.working=BYTES    the part of it that is written to                (default: all)
 *   pl.rate=BYTES       pages written per second, in bytes; `max`: as fast as it goes;
 *                       0: idle, only ticks                              (default 0)
 *   pl.compute=1        compute between the writes, so much that the rate takes all of the CPU: the
 *                       guest is slower by as much as it is kept from running   (default 0)
 *   pl.width=BYTES      bytes changed by one write to a page, a power of two in 8..4096
 *   pl.pattern=NAME     uniform | sequential | hot (9 of 10 writes to 1 of 10 pages) | zipf (page
 *                       number r by popularity gets a share of 1/r; the popular ones lie scattered)
 *   pl.content=NAME     what pages hold: random | half (of every 64 bytes the second half is the
 *                       same everywhere, so that codecs halve it) | guestperf   (default random)
 *   pl.busy_ms=MS       write for so long, then not for pl.quiet_ms, and so on, by the
 *   pl.quiet_ms=MS      guest's monotonic clock; 0: always write         (default 0)
 *   pl.tick_ms=MS       milliseconds from tick to tick                   (default 100)
 *   pl.threads=N        writing threads, at most 16                      (default 1)
 *   pl.check=PAGES      pages verified per tick, over all threads        (default 512)
 *   pl.computing=N      of the threads, the last N write nothing: each of their writes is
 *                       drawn and summed, and stands for a fixed amount of computing
 *   pl.demand=PERCENT   of a CPU, that each of these takes            (default 100)
 *   pl.pinned=1         thread t runs on CPU t and nowhere else
 *   pl.seed=N           seed of all content and of the order of writes   (default 1)
 *
 * Lines on the console (the harness parses them, see tests/src/ticks.rs):
 *   ready PAGES
 *   tick N writes W[+W...] sum HEX[+HEX...] mono MS bad B      one value per thread
 *   LOST page P thread T count C word I want HEX got HEX
 *   verified PAGES bad B
 * and from it: `verify` (a full check at the next tick).
 *
 * Content. Page p starts as the xorshift64 stream seeded by mix(seed ^ mix(p)). The k-th write to
 * it (k from 1) replaces block (k * STRIDE + p) mod (4096 / width) by the stream seeded by
 * mix(page seed + k * GOLDEN). So the number of writes to a page, which is kept apart, tells
 * the content of the whole page. Write w of thread t draws mix(thread seed + w * GOLDEN),
 * which chooses the page; `sum` is the sum of the draws 1..W, which anyone can recompute.
 * With `half`, blocks of 64 bytes and more hold a constant in the second half of every 64 bytes.
 * With `guestperf`, a page starts as bytes 0xfe, and a write XORs all of it with the same random
 * page, as the load of QEMU's guestperf does: no page ever has a third content.
 * Page p belongs to thread p mod threads: no page has two writers.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, THREADS_MAX = 16, LOST_LINES_PER_CHECK = 4 };
enum { STEPS_PER_DRAW = 4096 }; /* of a thread that computes */
enum { LINE_WORDS = 8 }; /* of the lines whose halves `half` tells apart */
enum pattern { UNIFORM, SEQUENTIAL, HOT, ZIPF };
enum content { RANDOM, HALF, GUESTPERF };

#define GOLDEN 0x9e3779b97f4a7c15ull
#define GUESTPERF_FILL 0xfefefefefefefefeull
#define PADDING 0x20746966656c6567ull /* any word will do */
#define SCATTER 2654435761u /* a prime above any number of pages */
#define STRIDE 37u /* odd, so that a page's blocks are all visited, and not in order */
#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull

static struct {
    uint64_t fill, working, rate, width, tick_ms, threads, check, seed, busy_ms, quiet_ms, compute;
    uint64_t computing, demand, pinned;
    enum pattern pattern;
    enum content content;
} config = {64 << 20, UINT64_MAX, 0, 8, 100, 1, 512, 1, 0, 0, 0, 0, 100, 0, UNIFORM, RANDOM};

/* What one thread tells of itself at a tick. */
struct report {
    uint64_t tick, writes, sum, bad, verified_pages, verified_bad, verify_round;
};

struct writer {
    pthread_t handle;
    uint64_t index, seed, pages; /* pages it owns; local page i is page i * threads + index */
    uint64_t written_to;         /* of these, the ones in the working set */
    uint32_t *zipf;              /* 2^32 times the share of ranks 0 to i; only for ZIPF */
    uint64_t cursor;             /* next local page of the rotating check */
    uint64_t writes, sum, bad;
    uint64_t computed; /* so that `compute` cannot be left out */
    struct report report; /* guarded by `lock` */
};

static unsigned char *memory;
static uint32_t *counts; /* writes to each page so far */
static uint64_t guestperf_page[WORDS]; /* what `guestperf` XORs with */
static uint64_t steps_per_write;       /* of `compute` */
static uint64_t draws_per_tick;        /* of a computing thread with a demand; else 0 */
static uint64_t pages;
static unsigned block_mask, inverse_stride;
static struct writer writers[THREADS_MAX];
static uint64_t start_ns;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t reported = PTHREAD_COND_INITIALIZER; /* by a writer */
static pthread_cond_t released = PTHREAD_COND_INITIALIZER; /* into the next tick */
static uint64_t verify_round; /* raised by `verify`; guarded by `lock` */

static pthread_mutex_t console = PTHREAD_MUTEX_INITIALIZER;

static void say(const char *format, ...)
{
    char line[1024];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (length >= (int)sizeof line)
        length = sizeof line - 1;
    pthread_mutex_lock(&console);
    for (int done = 0; done < length;) {
        ssize_t n = write(1, line + done, length - done);
        if (n <= 0)
            break;
        done += n;
    }
    pthread_mutex_unlock(&console);
}

static void die(const char *why)
{
    say("error %s\n", why);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void sleep_until(uint64_t deadline_ns)
{
    struct timespec t = {deadline_ns / NS_PER_S, deadline_ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
        ;
}

/* The finalizer of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* xorshift64 (13, 7, 17): cheap even when every instruction is emulated. */
static void stream(uint64_t state, uint64_t *words, unsigned n)
{
    state |= 1;
    for (unsigned i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state;
    }
}

static uint64_t page_seed(uint64_t page)
{
    return mix(config.seed ^ mix(page + GOLDEN));
}

/* The content of a block of n words of a page. */
static void fill_block(uint64_t seed, uint64_t *words, unsigned n)
{
    stream(seed, words, n);
    if (config.content != HALF || n < LINE_WORDS)
        return;
    for (unsigned i = 0; i < n; i++)
        if (i % LINE_WORDS >= LINE_WORDS / 2)
            words[i] = PADDING;
}

static unsigned block_of_write(uint64_t page, uint32_t k)
{
    return (k * STRIDE + (unsigned)page) & block_mask;
}

static void expected_page(uint64_t page, uint32_t count, uint64_t *words)
{
    unsigned block_words = config.width / 8;
    uint64_t seed = page_seed(page);
    if (config.content == GUESTPERF) {
        for (unsigned i = 0; i < WORDS; i++)
            words[i] = GUESTPERF_FILL ^ (count % 2 ? guestperf_page[i] : 0);
        return;
    }
    fill_block(seed, words, WORDS);
    if (count == 0)
        return;
    for (unsigned block = 0; block <= block_mask; block++) {
        /* The last k <= count that fell on this block. */
        unsigned phase = ((block - (unsigned)page) * inverse_stride) & block_mask;
        unsigned ago = (count - phase) & block_mask;
        if (ago < count)
            fill_block(mix(seed + (count - ago) * GOLDEN), words + block * block_words,
                       block_words);
    }
}

static void write_page(uint64_t page)
{
    unsigned block_words = config.width / 8;
    uint32_t k = ++counts[page];
    uint64_t *words = (uint64_t *)(memory + page * PAGE);
    if (config.content == GUESTPERF) {
        for (unsigned i = 0; i < WORDS; i++)
            words[i] ^= guestperf_page[i];
        return;
    }
    fill_block(mix(page_seed(page) + k * GOLDEN),
               words + block_of_write(page, k) * block_words, block_words);
}

/* Whether the page holds what it must; if not and `tell`, says how it differs. */
static int page_is_good(uint64_t page, uint64_t thread, int tell)
{
    uint64_t want[WORDS];
    const uint64_t *got = (const uint64_t *)(memory + page * PAGE);
    expected_page(page, counts[page], want);
    if (memcmp(want, got, PAGE) == 0)
        return 1;
    unsigned i = 0;
    while (i < WORDS - 1 && want[i] == got[i])
        i++;
    if (tell)
        say("LOST page %llu thread %llu count %u word %u want %016llx got %016llx\n",
            (unsigned long long)page, (unsigned long long)thread, counts[page], i,
            (unsigned long long)want[i], (unsigned long long)got[i]);
    return 0;
}

static uint64_t owned_page(const struct writer *w, uint64_t local)
{
    return local * config.threads + w->index;
}

static uint64_t check_pages(struct writer *w, uint64_t n)
{
    uint64_t bad = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!page_is_good(owned_page(w, w->cursor), w->index, bad < LOST_LINES_PER_CHECK))
            bad++;
        w->cursor = (w->cursor + 1) % w->pages;
    }
    return bad;
}

static int computes(const struct writer *w)
{
    return w->index >= config.threads - config.computing;
}

/* All pages of this thread. The counts themselves live in guest memory and may be lost like any
 * page: together they must tell as many writes as were made. */
static uint64_t check_all(struct writer *w)
{
    uint64_t total = 0, bad;
    w->cursor = 0;
    bad = check_pages(w, w->pages);
    for (uint64_t i = 0; i < w->pages; i++)
        total += counts[owned_page(w, i)];
    if (!computes(w) && total != w->writes) {
        say("LOST counts of thread %llu: %llu writes made, %llu counted\n",
            (unsigned long long)w->index, (unsigned long long)w->writes,
            (unsigned long long)total);
        bad++;
    }
    return bad;
}

static uint64_t scale(uint64_t draw, uint64_t n)
{
    return ((draw >> 32) * n) >> 32;
}

/* The first rank whose share, with those before it, exceeds the draw's high half. */
static uint64_t zipf_rank(const struct writer *w, uint64_t draw)
{
    uint64_t low = 0, high = w->written_to - 1;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if ((uint32_t)(draw >> 32) < w->zipf[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void one_write(struct writer *w)
{
    uint64_t draw = mix(w->seed + ++w->writes * GOLDEN), n = w->written_to, local;
    switch (config.pattern) {
    case SEQUENTIAL:
        local = (w->writes - 1) % n;
        break;
    case ZIPF:
        local = zipf_rank(w, draw) * SCATTER % n;
        break;
    case HOT:
        if ((draw & 0xff) < 230) /* 230 / 256: nine of ten */
            n = (n + 9) / 10;
        /* fall through */
    default:
        local = scale(draw, n);
    }
    w->sum += draw;
    write_page(owned_page(w, local));
}

/* Work that touches no memory. */
static uint64_t compute(uint64_t steps)
{
    uint64_t x = steps;
    while (steps--)
        x = mix(x);
    return x;
}

/* Whether now is a time without writes; asked once for each tick. */
static int is_quiet(void)
{
    uint64_t cycle_ms = config.busy_ms + config.quiet_ms;
    return config.quiet_ms && now_ns() / NS_PER_MS % cycle_ms >= config.busy_ms;
}

/* Writes at the set rate until the tick's end. What the CPU could not do in time is dropped: a
 * guest that was paused does not make up for it in a burst. */
static void write_between(struct writer *w, uint64_t begin_ns, uint64_t end_ns)
{
    const uint64_t slice_ns = 5 * NS_PER_MS;
    uint64_t done = 0;
    if (is_quiet()) {
        sleep_until(end_ns);
        return;
    }
    while ((config.rate == UINT64_MAX || steps_per_write) && w->written_to) {
        for (int i = 0; i < 32; i++) {
            one_write(w);
            w->computed += compute(steps_per_write);
        }
        if (now_ns() >= end_ns)
            return;
    }
    for (uint64_t now = now_ns(); now < end_ns; now = now_ns()) {
        uint64_t slice_end = now + slice_ns < end_ns ? now + slice_ns : end_ns;
        double due = (double)(slice_end - begin_ns) / NS_PER_S * config.rate / PAGE /
                     config.threads;
        for (; w->written_to && done < (uint64_t)due; done++) {
            one_write(w);
            if (done % 32 == 31 && now_ns() >= end_ns)
                return;
        }
        sleep_until(slice_end);
    }
}

/* The same without a write: what it does is counted as writes are. With a demand, it sleeps once
 * it has done its part of the tick. */
static void compute_between(struct writer *w, uint64_t end_ns)
{
    uint64_t done = 0;
    do {
        uint64_t draw = mix(w->seed + ++w->writes * GOLDEN);
        w->sum += draw;
        for (int i = 0; i < STEPS_PER_DRAW; i++)
            draw = mix(draw);
        w->computed += draw;
        if (++done == draws_per_tick) {
            sleep_until(end_ns);
            return;
        }
    } while (now_ns() < end_ns);
}

static void pin(uint64_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        die("no CPU for a pinned thread");
}

static void *run_writer(void *argument)
{
    struct writer *w = argument;
    if (config.pinned)
        pin(w->index);
    uint64_t deadline = start_ns, check = config.check / config.threads, round = 0;
    if (check > w->pages)
        check = w->pages;
    for (uint64_t tick = 1;; tick++) {
        /* Late ticks are not caught up: the next one is a whole tick from now. */
        uint64_t now = now_ns(), length = config.tick_ms * NS_PER_MS;
        deadline = now > deadline + length ? now + length : deadline + length;
        w->bad += check_pages(w, check);
        if (computes(w))
            compute_between(w, deadline);
        else
            write_between(w, deadline - length, deadline);

        pthread_mutex_lock(&lock);
        uint64_t wanted = verify_round;
        pthread_mutex_unlock(&lock);
        uint64_t found = wanted == round ? 0 : check_all(w);
        w->bad += found;

        pthread_mutex_lock(&lock);
        if (wanted != round) {
            w->report.verify_round = round = wanted;
            w->report.verified_pages = w->pages;
            w->report.verified_bad = found;
        }
        w->report.tick = tick;
        w->report.writes = w->writes;
        w->report.sum = w->sum;
        w->report.bad = w->bad;
        pthread_cond_signal(&reported);
        /* Threads keep step: nobody starts a tick before the last one is printed. */
        while (w->report.tick == tick)
            pthread_cond_wait(&released, &lock);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void *read_console(void *unused)
{
    char line[128];
    (void)unused;
    while (fgets(line, sizeof line, stdin)) {
        if (strncmp(line, "verify", 6) != 0)
            continue;
        pthread_mutex_lock(&lock);
        verify_round++;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void print_tick(uint64_t tick, const struct report *reports)
{
    char writes[THREADS_MAX * 22] = "", sums[THREADS_MAX * 18] = "";
    uint64_t bad = 0;
    int w = 0, s = 0;
    for (uint64_t t = 0; t < config.threads; t++) {
        w += sprintf(writes + w, "%s%llu", t ? "+" : "", (unsigned long long)reports[t].writes);
        s += sprintf(sums + s, "%s%016llx", t ? "+" : "", (unsigned long long)reports[t].sum);
        bad += reports[t].bad;
    }
    say("tick %llu writes %s sum %s mono %llu bad %llu\n", (unsigned long long)tick, writes, sums,
        (unsigned long long)(now_ns() / NS_PER_MS), (unsigned long long)bad);
}

static void coordinate(void)
{
    uint64_t told_round = 0;
    for (uint64_t tick = 1;; tick++) {
        struct report reports[THREADS_MAX];
        uint64_t round = UINT64_MAX, all = 0, bad = 0;
        pthread_mutex_lock(&lock);
        for (uint64_t t = 0; t < config.threads; t++) {
            while (writers[t].report.tick != tick)
                pthread_cond_wait(&reported, &lock);
            reports[t] = writers[t].report;
        }
        for (uint64_t t = 0; t < config.threads; t++)
            writers[t].report.tick = 0;
        pthread_cond_broadcast(&released);
        pthread_mutex_unlock(&lock);

        print_tick(tick, reports);
        /* A `verify` that came while some threads were past its check counts for all of them
         * one tick later. */
        for (uint64_t t = 0; t < config.threads; t++) {
            if (reports[t].verify_round < round)
                round = reports[t].verify_round;
            all += reports[t].verified_pages;
            bad += reports[t].verified_bad;
        }
        if (round > told_round) {
            told_round = round;
            say("verified %llu bad %llu\n", (unsigned long long)all, (unsigned long long)bad);
        }
    }
}

static uint64_t parse_size(const char *text)
{
    char *end;
    if (strncmp(text, "max", 3) == 0)
        return UINT64_MAX;
    uint64_t value = strtoull(text, &end, 0);
    switch (*end) {
    case 'G':
        value <<= 10; /* fall through */
    case 'M':
        value <<= 10; /* fall through */
    case 'k':
        value <<= 10;
    }
    return value;
}

static void read_config(void)
{
    static const struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {
        {"pl.fill=", &config.fill},       {"pl.working=", &config.working},
        {"pl.rate=", &config.rate},       {"pl.width=", &config.width},
        {"pl.tick_ms=", &config.tick_ms}, {"pl.threads=", &config.threads},
        {"pl.check=", &config.check},     {"pl.seed=", &config.seed},
        {"pl.busy_ms=", &config.busy_ms}, {"pl.quiet_ms=", &config.quiet_ms},
        {"pl.compute=", &config.compute},
        {"pl.pinned=", &config.pinned},   {"pl.computing=", &config.computing},
        {"pl.demand=", &config.demand},
    };
    char line[4096];
    FILE *file = fopen("/proc/cmdline", "r");
    if (!file || !fgets(line, sizeof line, file))
        die("/proc/cmdline cannot be read");
    fclose(file);
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
        size_t known = strncmp(word, "pl.", 3) != 0;
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
            size_t length = strlen(numbers[i].name);
            if (strncmp(word, numbers[i].name, length) == 0) {
                *numbers[i].value = parse_size(word + length);
                known = 1;
            }
        }
        if (strncmp(word, "pl.pattern=", 11) == 0) {
            known = 1;
            if (strcmp(word + 11, "uniform") == 0)
                config.pattern = UNIFORM;
            else if (strcmp(word + 11, "sequential") == 0)
                config.pattern = SEQUENTIAL;
            else if (strcmp(word + 11, "hot") == 0)
                config.pattern = HOT;
            else if (strcmp(word + 11, "zipf") == 0)
                config.pattern = ZIPF;
            else
                die("pl.pattern is uniform, sequential, hot or zipf");
        }
        if (strncmp(word, "pl.content=", 11) == 0) {
            known = 1;
            if (strcmp(word + 11, "random") == 0)
                config.content = RANDOM;
            else if (strcmp(word + 11, "half") == 0)
                config.content = HALF;
            else if (strcmp(word + 11, "guestperf") == 0)
                config.content = GUESTPERF;
            else
                die("pl.content is random, half or guestperf");
        }
        if (!known)
            die(word);
    }
    if (config.width < 8 || config.width > PAGE || config.width & (config.width - 1))
        die("pl.width is a power of two from 8 to 4096");
    if (config.threads < 1 || config.threads > THREADS_MAX)
        die("pl.threads is 1 to 16");
    if (config.computing > config.threads)
        die("pl.computing is at most pl.threads");
    if (config.demand < 1 || config.demand > 100)
        die("pl.demand is 1 to 100");
    if (config.tick_ms < 1 || config.fill / PAGE < config.threads)
        die("pl.tick_ms is at least 1, pl.fill at least a page per thread");
    if (config.content == GUESTPERF && config.width != PAGE)
        die("pl.content=guestperf writes whole pages: pl.width=4096");
    if (!config.busy_ms != !config.quiet_ms)
        die("pl.busy_ms and pl.quiet_ms go together");
}

static void fill(void)
{
    pages = config.fill / PAGE;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    counts = calloc(pages, sizeof *counts);
    if (memory == MAP_FAILED || !counts)
        die("no memory for pl.fill");
    block_mask = PAGE / config.width - 1;
    /* Newton's iteration doubles the correct low bits: 3, 6, 12, 24. */
    inverse_stride = STRIDE;
    for (int i = 0; i < 3; i++)
        inverse_stride *= 2 - STRIDE * inverse_stride;
    stream(mix(config.seed), guestperf_page, WORDS);
    for (uint64_t page = 0; page < pages; page++)
        expected_page(page, 0, (uint64_t *)(memory + page * PAGE));
    /* The counts must be resident too, or writing them would dirty more pages at first. */
    for (uint64_t page = 0; page < pages; page++)
        *(volatile uint32_t *)&counts[page] = 0;
}

/* Shares of Zipf's law with exponent 1, summed up. */
static uint32_t *make_zipf(uint64_t n)
{
    uint32_t *sums = malloc(n * sizeof *sums);
    double all = 0, sum = 0;
    if (!sums)
        die("no memory for the table of pl.pattern=zipf");
    for (uint64_t rank = 1; rank <= n; rank++)
        all += 1.0 / rank;
    for (uint64_t rank = 1; rank <= n; rank++) {
        sum += 1.0 / rank;
        sums[rank - 1] = (uint32_t)(sum / all * UINT32_MAX);
    }
    return sums;
}

/* Nanoseconds that a step of `compute` takes. */
static double step_ns(void)
{
    enum { STEPS = 1 << 20 };
    double begin = now_ns();
    writers[0].computed = compute(STEPS);
    return (now_ns() - begin) / STEPS;
}

/* How many steps of `compute` fill the time between two writes at the set rate. */
static uint64_t calibrate(void)
{
    enum { BLOCKS = 1 << 10 };
    static uint64_t scratch[WORDS];
    double begin = now_ns();
    for (uint64_t i = 0; i < BLOCKS; i++)
        fill_block(i, scratch, config.width / 8);
    double write_ns = (now_ns() - begin) / BLOCKS;
    double between_ns = (double)NS_PER_S * PAGE * config.threads / config.rate;
    return between_ns > write_ns ? (uint64_t)((between_ns - write_ns) / step_ns()) + 1 : 1;
}

int main(void)
{
    struct termios mode;
    pthread_t reader;
    if (tcgetattr(0, &mode) == 0) {
        mode.c_lflag &= ~(tcflag_t)ECHO; /* commands must not appear among the ticks */
        tcsetattr(0, TCSANOW, &mode);
    }
    read_config();
    fill();
    say("ready %llu\n", (unsigned long long)pages);

    uint64_t working = config.working < config.fill ? config.working / PAGE : pages;
    for (uint64_t t = 0; t < config.threads; t++) {
        struct writer *w = &writers[t];
        w->index = t;
        w->seed = mix(config.seed + (t + 1) * GOLDEN);
        w->pages = pages / config.threads + (t < pages % config.threads);
        w->written_to = working / config.threads + (t < working % config.threads);
        if (config.pattern == ZIPF && w->written_to)
            w->zipf = make_zipf(w->written_to);
    }
    if (config.compute && config.rate && config.rate != UINT64_MAX)
        steps_per_write = calibrate();
    if (config.computing && config.demand < 100)
        draws_per_tick = (uint64_t)(config.tick_ms * NS_PER_MS * config.demand / 100 /
                                    (step_ns() * STEPS_PER_DRAW)) + 1;
    start_ns = now_ns();
    pthread_create(&reader, NULL, read_console, NULL);
    for (uint64_t t = 0; t < config.threads; t++)
        if (pthread_create(&writers[t].handle, NULL, run_writer, &writers[t]))
            die("no thread");
    coordinate();
}
