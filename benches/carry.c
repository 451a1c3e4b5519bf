/* Carries packets between hosts: carry LOSS QUEUE SEED TUN,DELAY,UP,DOWN...
 *
 * What a host sends leaves it at the rate UP (bits a second, 0 for any), through a queue of its own that holds so many seconds.
 * Then it may get lost, is under way for the sum of both hosts' DELAY in seconds, and comes in at the other's rate DOWN, through
 * another queue. For each line on stdin, tells on stdout what happened since the one before: packets sent, those lost and those
 * for which a queue had no room. Also by how many microseconds the others came late, in the mean and at most. Ends with stdin. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define HOSTS 250
/* Packets of one host, after which the others have their turn. */
#define BATCH 64

struct packet {
    int64_t due;
    /* Whether it is through the queue of the host that gets it, and which came first of two that are due at once. */
    int through;
    uint64_t number;
    int to, length;
    unsigned char bytes[];
};

struct host {
    int tun;
    int64_t delay;
    double up, down;
    /* When all that waits has left, or is in. */
    int64_t leaves, enters;
};

static struct host hosts[HOSTS];
static int count;
/* All that is under way, a binary heap: what is due first is at the top. */
static struct packet **heap;
static size_t size, room;
static int64_t queue;
static double loss;
static uint64_t draw, numbers;
static unsigned long sent, lost, full, came, late, latest;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Between 0 and 1; xorshift64* (Vigna, 2016). */
static double chance(void) {
    draw ^= draw >> 12;
    draw ^= draw << 25;
    draw ^= draw >> 27;
    return (double)(draw * 0x2545F4914F6CDD1DULL >> 11) / 9007199254740992.0;
}

static int before(const struct packet *a, const struct packet *b) {
    return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void push(struct packet *packet) {
    if (size == room) {
        room = room ? 2 * room : 1024;
        if (!(heap = realloc(heap, room * sizeof *heap)))
            exit(1);
    }
    size_t at = size++;
    while (at && before(packet, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = packet;
}

static struct packet *pop(void) {
    struct packet *top = heap[0], *last = heap[--size];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < size) {
        child += child + 1 < size && before(heap[child + 1], heap[child]);
        if (!before(heap[child], last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* When something that comes at `at` is through a queue; -1 if that has no room. */
static int64_t pass(int64_t *until, double rate, int length, int64_t at) {
    int64_t begin = *until > at ? *until : at;
    if (rate <= 0)
        return at;
    if (begin - at > queue) {
        full++;
        return -1;
    }
    return *until = begin + (int64_t)(length * 8e9 / rate);
}

static void take(struct host *from, const unsigned char *bytes, int length, int64_t at) {
    /* IPv4, to one of the hosts: the last byte of the destination tells which. */
    if (length < 20 || bytes[0] >> 4 != 4 || bytes[19] < 1 || bytes[19] > count)
        return;
    sent++;
    int64_t left = pass(&from->leaves, from->up, length, at);
    if (left < 0)
        return;
    if (chance() < loss) {
        lost++;
        return;
    }
    struct packet *packet = malloc(sizeof *packet + length);
    if (!packet)
        exit(1);
    packet->to = bytes[19] - 1;
    packet->due = left + from->delay + hosts[packet->to].delay;
    packet->through = 0;
    packet->number = numbers++;
    packet->length = length;
    memcpy(packet->bytes, bytes, length);
    push(packet);
}

/* Hands over what is due by now; when something else is. */
static int64_t hand_over(int64_t at) {
    while (size && heap[0]->due <= at) {
        struct packet *packet = pop();
        struct host *to = &hosts[packet->to];
        if (!packet->through) {
            int64_t in = pass(&to->enters, to->down, packet->length, packet->due);
            packet->through = 1;
            packet->due = in;
            if (in > at) {
                push(packet);
                continue;
            }
        }
        if (packet->due >= 0) {
            unsigned long by = at - packet->due;
            if (write(to->tun, packet->bytes, packet->length) == packet->length) {
                came++;
                late += by;
                latest = by > latest ? by : latest;
            }
        }
        free(packet);
    }
    return size ? heap[0]->due : at + 1000000000;
}

int main(int words, char **word) {
    static struct pollfd ready[HOSTS + 1];
    static unsigned char bytes[65536];
    count = words - 4;
    if (count < 1 || count > HOSTS)
        return 2;
    loss = atof(word[1]);
    queue = atof(word[2]) * 1e9;
    draw = strtoull(word[3], NULL, 10) * 2 + 1;
    for (int host = 0; host < count; host++) {
        double seconds;
        struct host *at = &hosts[host];
        if (sscanf(word[4 + host], "%d,%lf,%lf,%lf", &at->tun, &seconds, &at->up, &at->down) != 4)
            return 2;
        at->delay = seconds * 1e9;
        ready[host] = (struct pollfd){.fd = at->tun, .events = POLLIN};
    }
    ready[count] = (struct pollfd){.fd = 0, .events = POLLIN};
    /* Else timers are 50 microseconds late. */
    prctl(PR_SET_TIMERSLACK, 1);
    for (;;) {
        int64_t next = hand_over(now()), wait = next - now();
        struct timespec most = {.tv_sec = wait > 0 ? wait / 1000000000 : 0, .tv_nsec = wait > 0 ? wait % 1000000000 : 0};
        if (ppoll(ready, count + 1, &most, NULL) <= 0)
            continue;
        if (ready[count].revents) {
            if (read(0, bytes, sizeof bytes) <= 0)
                return 0;
            printf("%lu %lu %lu %.1f %.1f\n", sent, lost, full, came ? late / 1e3 / came : 0., latest / 1e3);
            fflush(stdout);
            sent = lost = full = came = late = latest = 0;
        }
        for (int host = 0; host < count; host++) {
            int length;
            for (int turn = 0; ready[host].revents && turn < BATCH; turn++) {
                if ((length = read(hosts[host].tun, bytes, sizeof bytes)) <= 0)
                    break;
                take(&hosts[host], bytes, length, now());
            }
        }
    }
}
