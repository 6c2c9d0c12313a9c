/* Two threads at the two ends of a ring: ring_stress FRAMES SECONDS
 *
 * Frames of random length go both ways at once, through rings of several sizes. Whoever finds
 * nothing to do either goes on looking, or after a random while parks and sleeps without a limit
 * in the kernel: on a futex, an eventfd or a pipe. So a wake-up that is lost stops everything, and
 * the deadline (SECONDS for the whole) says where. Every byte that comes out is compared. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ring.h"

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s (%s, ring of %u)\n", __FILE__, __LINE__,            \
                    #condition, bell_names[bell], ring_size);                                      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum bell { NO_BELL, FUTEX, EVENTFD, PIPE, BELLS };
enum { LONGEST = 600, TABLE = 4096, PATIENCE = 200, HASTE = 32, LITMUS = 100000 };

static const char *const bell_names[BELLS] = {"no sleep", "futex", "eventfd", "pipe"};
/* The longest frame: longer than the small rings, so that it goes in pieces. */
static const struct {
    uint32_t size, longest, share; /* of the frames, in percent */
} rings[] = {{64, 90, 6}, {128, 150, 8}, {256, 300, 16}, {1024, 300, 30}, {4096, LONGEST, 40}};
enum { RINGS = sizeof rings / sizeof rings[0] };

static enum bell bell;
static uint32_t ring_size, longest;
static uint8_t table[TABLE + LONGEST];

struct side {
    struct rs_ring ring;
    struct side *other;
    /* The bell that wakes this side. */
    _Atomic uint32_t rung;
    int sleep_fd, ring_fd;
    uint64_t random;
    uint32_t out_key, in_key; /* what frames to send, and to expect */
    uint32_t to_send, sent, to_receive, received;
    uint8_t out[4 + LONGEST], in[4 + LONGEST];
    uint32_t out_len, out_pos, in_pos;
    uint64_t sleeps, bells, wraps;
    uint8_t *began, *wrapped; /* offsets at which a write began, and of those one that wrapped */
};

static uint32_t draw(struct side *s) {
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return (uint32_t)(s->random >> 16);
}

static uint32_t mix(uint32_t key, uint32_t n) {
    uint32_t h = (n + key) * 0x9e3779b1u;
    h = (h ^ h >> 15) * 0x85ebca77u;
    return h ^ h >> 13;
}

/* Frame n, as both sides can work it out: its number and a part of the table. Its length. */
static uint32_t frame(uint32_t key, uint32_t n, const uint8_t **body) {
    uint32_t h = mix(key, n);
    *body = table + h % TABLE;
    return 4 + (h >> 12) % longest;
}

static void ring_bell(struct side *s) {
    uint64_t one = 1;
    s->bells++;
    switch (bell) {
    case FUTEX:
        atomic_fetch_add(&s->other->rung, 1);
        syscall(SYS_futex, &s->other->rung, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        break;
    case EVENTFD:
        REQUIRE(write(s->other->ring_fd, &one, 8) == 8);
        break;
    case PIPE: /* full: it has been rung, as with the real one */
        REQUIRE(write(s->other->ring_fd, "", 1) == 1 || errno == EAGAIN);
        break;
    default:
        break;
    }
}

static void sleep_until_bell(struct side *s, uint32_t rung) {
    uint8_t bytes[64];
    ssize_t n = 0;
    s->sleeps++;
    if (bell == FUTEX)
        syscall(SYS_futex, &s->rung, FUTEX_WAIT_PRIVATE, rung, NULL, NULL, 0);
    else
        while ((n = read(s->sleep_fd, bytes, sizeof bytes)) < 0 && errno == EINTR)
            ;
    REQUIRE(n >= 0);
}

static void park(struct side *s) {
    int sending = s->sent < s->to_send;
    uint32_t rung = atomic_load(&s->rung);
    rs_ring_park(&s->ring, RS_PARKED_DATA | (sending ? RS_PARKED_ROOM : 0));
    if (!rs_ring_available(&s->ring) && !(sending && rs_ring_room(&s->ring)))
        sleep_until_bell(s, rung);
    rs_ring_unpark(&s->ring);
}

static int send_some(struct side *s) {
    if (s->sent == s->to_send)
        return 0;
    uint32_t n = rs_ring_room(&s->ring);
    REQUIRE(n <= ring_size);
    if (!n)
        return 0;
    if (!s->out_len) {
        const uint8_t *body;
        s->out_len = frame(s->out_key, s->sent, &body);
        memcpy(s->out, &s->sent, 4);
        memcpy(s->out + 4, body, s->out_len - 4);
    }
    if (n > s->out_len - s->out_pos)
        n = s->out_len - s->out_pos;
    if (n > 1 && draw(s) % 8 == 0)
        n = 1 + draw(s) % n;
    uint32_t at = s->ring.tail & (ring_size - 1);
    s->began[at] = 1;
    if (at + n > ring_size) {
        s->wrapped[at] = 1;
        s->wraps++;
    }
    rs_ring_write(&s->ring, s->out + s->out_pos, n);
    if (rs_ring_must_wake(&s->ring, RS_PARKED_DATA))
        ring_bell(s);
    s->out_pos += n;
    if (s->out_pos == s->out_len) {
        s->out_len = s->out_pos = 0;
        s->sent++;
    }
    return 1;
}

static int receive_some(struct side *s) {
    if (s->received == s->to_receive)
        return 0;
    uint32_t n = rs_ring_available(&s->ring);
    REQUIRE(n <= ring_size);
    if (!n)
        return 0;
    const uint8_t *body;
    uint32_t len = frame(s->in_key, s->received, &body);
    if (n > len - s->in_pos)
        n = len - s->in_pos;
    if (n > 4 && draw(s) % 2) { /* as one peeks at a header first */
        rs_ring_peek(&s->ring, 0, s->in + s->in_pos, 4);
        rs_ring_peek(&s->ring, 4, s->in + s->in_pos + 4, n - 4);
    } else {
        rs_ring_peek(&s->ring, 0, s->in + s->in_pos, n);
    }
    rs_ring_take(&s->ring, n);
    if (rs_ring_must_wake(&s->ring, RS_PARKED_ROOM))
        ring_bell(s);
    s->in_pos += n;
    if (s->in_pos == len) {
        REQUIRE(memcmp(s->in, &s->received, 4) == 0);
        REQUIRE(memcmp(s->in + 4, body, len - 4) == 0);
        s->in_pos = 0;
        s->received++;
    }
    return 1;
}

static void *run(void *arg) {
    struct side *s = arg;
    uint32_t idle = 0;
    while (s->sent < s->to_send || s->received < s->to_receive) {
        int moved = send_some(s);
        moved |= receive_some(s);
        if (moved) {
            idle = 0;
            continue;
        }
        rs_pause();
        /* At times at once: the wake-up may then cross the sleep at any point. */
        if (idle++ < PATIENCE && !(bell && draw(s) % HASTE == 0))
            continue;
        idle = 0;
        if (bell)
            park(s);
        else
            sched_yield(); /* the other one may have no CPU */
    }
    return NULL;
}

static uint8_t *map_halves(uint32_t size) {
    uint8_t *at = mmap(NULL, 2 * (RS_SIZE_RING_HEADER + (size_t)size), PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return at;
}

static void open_bell(struct side *s) {
    int fds[2];
    if (bell == EVENTFD) {
        REQUIRE((s->sleep_fd = s->ring_fd = eventfd(0, EFD_CLOEXEC)) >= 0);
    } else if (bell == PIPE) {
        REQUIRE(pipe(fds) == 0);
        REQUIRE(fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
        s->sleep_fd = fds[0];
        s->ring_fd = fds[1];
    }
}

static uint32_t count(const uint8_t *marks) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < ring_size; i++)
        n += marks[i];
    return n;
}

/* frames of them, half of them each way. */
static void stress(uint32_t frames) {
    static struct side sides[2];
    pthread_t threads[2];
    uint8_t *halves = map_halves(ring_size), *second = halves + RS_SIZE_RING_HEADER + ring_size;
    memset(sides, 0, sizeof sides);
    for (int i = 0; i < 2; i++) {
        struct side *s = &sides[i];
        rs_ring_init(&s->ring, i ? second : halves, i ? halves : second, ring_size);
        s->other = &sides[!i];
        s->random = 88172645463325252u + (uint64_t)i;
        s->out_key = (uint32_t)i * 77777;
        s->in_key = (uint32_t)!i * 77777;
        s->to_send = s->to_receive = frames / 2;
        s->began = calloc(2, ring_size);
        REQUIRE(s->began);
        s->wrapped = s->began + ring_size;
        open_bell(s);
    }
    /* So that the counts pass 2^32 on the way. */
    for (int i = 0; i < 2; i++) {
        struct rs_ring *mine = &sides[i].ring, *theirs = &sides[!i].ring;
        mine->tail = theirs->head = (uint32_t)-10000 - (uint32_t)i;
        atomic_store(&mine->mine->tail, mine->tail);
        atomic_store(&theirs->mine->head, theirs->head);
    }
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_create(&threads[i], NULL, run, &sides[i]) == 0);
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    struct side *a = &sides[0], *b = &sides[1];
    REQUIRE(!bell || (a->sleeps + b->sleeps && a->bells + b->bells));
    printf("%-8s ring %4u: %u frames, %u+%u of %u offsets, %u+%u with a wrap, %llu wraps, "
           "%llu sleeps, %llu bells\n",
           bell_names[bell], ring_size, a->received + b->received, count(a->began),
           count(b->began), ring_size, count(a->wrapped), count(b->wrapped),
           (unsigned long long)(a->wraps + b->wraps), (unsigned long long)(a->sleeps + b->sleeps),
           (unsigned long long)(a->bells + b->bells));
    for (int i = 0; i < 2; i++) {
        struct side *s = &sides[i];
        REQUIRE(rs_ring_available(&s->ring) == 0 && rs_ring_room(&s->ring) == ring_size);
        /* A large ring has too many for all of them to be met by chance. */
        REQUIRE(count(s->began) >= (ring_size > 1024 ? ring_size / 10 * 9 : ring_size));
        REQUIRE(s->sleep_fd == 0 || close(s->sleep_fd) == 0);
        REQUIRE(s->ring_fd == s->sleep_fd || close(s->ring_fd) == 0);
        free(s->began);
    }
    munmap(halves, 2 * (RS_SIZE_RING_HEADER + (size_t)ring_size));
}

/* ---- what the fences are for: one byte is written just as the reader parks ---- */

static struct litmus {
    struct rs_ring writer, reader;
    int fenced;
    _Alignas(64) _Atomic uint32_t started[2];
    int woke, saw;
} litmus;

/* Both threads leave it at about the same time. */
static void meet(int who, uint32_t n) {
    atomic_store(&litmus.started[who], n);
    for (uint32_t i = 1; atomic_load(&litmus.started[!who]) < n; i++)
        if (i % 1000 == 0)
            sched_yield();
}

static void *litmus_writer(void *unused) {
    struct rs_ring *r = &litmus.writer;
    for (uint32_t i = 0; i < LITMUS; i++) {
        meet(0, 2 * i + 1);
        rs_ring_write(r, "", 1);
        if (litmus.fenced)
            litmus.woke = rs_ring_must_wake(r, RS_PARKED_DATA);
        else
            litmus.woke = atomic_load_explicit(&r->theirs->parked, memory_order_relaxed) & 1;
        meet(0, 2 * i + 2);
    }
    return unused;
}

static uint32_t litmus_test(int fenced) {
    pthread_t writer;
    uint32_t lost = 0;
    uint8_t *halves = map_halves(64), *second = halves + RS_SIZE_RING_HEADER + 64;
    memset(&litmus, 0, sizeof litmus);
    rs_ring_init(&litmus.writer, halves, second, 64);
    rs_ring_init(&litmus.reader, second, halves, 64);
    litmus.fenced = fenced;
    REQUIRE(pthread_create(&writer, NULL, litmus_writer, NULL) == 0);
    struct rs_ring *r = &litmus.reader;
    for (uint32_t i = 0; i < LITMUS; i++) {
        meet(1, 2 * i + 1);
        if (fenced)
            rs_ring_park(r, RS_PARKED_DATA);
        else
            atomic_store_explicit(&r->mine->parked, RS_PARKED_DATA, memory_order_relaxed);
        litmus.saw = rs_ring_available(r) != 0;
        meet(1, 2 * i + 2);
        lost += !litmus.woke && !litmus.saw; /* asleep, and nobody rings */
        REQUIRE(rs_ring_available(r) == 1);
        rs_ring_unpark(r);
        rs_ring_take(r, 1);
    }
    REQUIRE(pthread_join(writer, NULL) == 0);
    munmap(halves, 2 * (RS_SIZE_RING_HEADER + 64));
    return lost;
}

static void too_long(int unused) {
    (void)unused;
    static const char text[] = "the deadline has passed: a wake-up was lost in the last of these\n";
    ssize_t ignored = write(2, text, sizeof text - 1);
    (void)ignored;
    _exit(3);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    uint32_t frames = (uint32_t)strtoul(argv[1], NULL, 10);
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGALRM, too_long);
    alarm((unsigned)strtoul(argv[2], NULL, 10));
    for (uint32_t i = 0; i < sizeof table; i++)
        table[i] = (uint8_t)mix(1, i);

    uint32_t with = litmus_test(1), without = litmus_test(0);
    printf("a byte against a sleep, %d times: %u wake-ups lost; without the fences %u\n", LITMUS,
           with, without);
    REQUIRE(with == 0); /* of the other nothing is certain: it takes two CPUs at the same time */
    uint32_t total = 0;
    for (int i = 0; i < RINGS; i++)
        for (bell = NO_BELL; bell < BELLS; bell++) {
            uint32_t n = (uint32_t)((uint64_t)frames * rings[i].share / 100 / BELLS / 2 * 2);
            ring_size = rings[i].size;
            longest = rings[i].longest;
            printf("%s, ring of %u:\n", bell_names[bell], ring_size);
            stress(n);
            total += n;
        }
    printf("%u frames in all\n", total);
    return 0;
}
