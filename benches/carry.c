/* Carries packets between hosts: carry DELAY LOSS BITS_PER_SECOND QUEUE SEED TUN...
 *
 * What a host sends leaves it at that rate (0 for any), through a queue of its own that holds so many seconds; then it may get
 * lost, and is under way for so many seconds. For each line on stdin, tells on stdout what happened since the one before:
 * packets sent, those lost and those for which a queue had no room, and by how many microseconds the others came late, in the
 * mean and at most. Ends with stdin. */
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
    struct packet *next;
    int64_t due;
    int to, length;
    unsigned char bytes[];
};

static struct packet *first[HOSTS], *last[HOSTS];
static int64_t leaves[HOSTS];
static int tun[HOSTS], hosts;
static int64_t delay, queue;
static double loss, rate;
static uint64_t draw;
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

static void take(int from, const unsigned char *bytes, int length, int64_t at) {
    int64_t begin = leaves[from] > at ? leaves[from] : at;
    /* IPv4, to one of the hosts: the last byte of the destination tells which. */
    if (length < 20 || bytes[0] >> 4 != 4 || bytes[19] < 1 || bytes[19] > hosts)
        return;
    sent++;
    if (rate > 0 && begin - at > queue) {
        full++;
        return;
    }
    leaves[from] = rate > 0 ? begin + (int64_t)(length * 8e9 / rate) : at;
    if (chance() < loss) {
        lost++;
        return;
    }
    struct packet *packet = malloc(sizeof *packet + length);
    if (!packet)
        exit(1);
    packet->next = NULL;
    packet->due = leaves[from] + delay;
    packet->to = bytes[19] - 1;
    packet->length = length;
    memcpy(packet->bytes, bytes, length);
    if (first[from])
        last[from]->next = packet;
    else
        first[from] = packet;
    last[from] = packet;
}

/* Hands over what is due by now; when something else is. */
static int64_t hand_over(int64_t at) {
    int64_t next = at + 1000000000;
    for (int host = 0; host < hosts; host++) {
        struct packet *packet;
        while ((packet = first[host]) && packet->due <= at) {
            unsigned long by = at - packet->due;
            if (write(tun[packet->to], packet->bytes, packet->length) == packet->length) {
                came++;
                late += by;
                latest = by > latest ? by : latest;
            }
            first[host] = packet->next;
            free(packet);
        }
        if (packet && packet->due < next)
            next = packet->due;
    }
    return next;
}

int main(int count, char **words) {
    static struct pollfd ready[HOSTS + 1];
    static unsigned char bytes[65536];
    if (count < 7 || count - 6 > HOSTS)
        return 2;
    delay = atof(words[1]) * 1e9;
    loss = atof(words[2]);
    rate = atof(words[3]);
    queue = atof(words[4]) * 1e9;
    draw = strtoull(words[5], NULL, 10) * 2 + 1;
    for (hosts = 0; hosts < count - 6; hosts++) {
        tun[hosts] = atoi(words[6 + hosts]);
        ready[hosts] = (struct pollfd){.fd = tun[hosts], .events = POLLIN};
    }
    ready[hosts] = (struct pollfd){.fd = 0, .events = POLLIN};
    /* Else timers are 50 microseconds late. */
    prctl(PR_SET_TIMERSLACK, 1);
    for (;;) {
        int64_t next = hand_over(now()), wait = next - now();
        struct timespec most = {.tv_sec = wait > 0 ? wait / 1000000000 : 0, .tv_nsec = wait > 0 ? wait % 1000000000 : 0};
        if (ppoll(ready, hosts + 1, &most, NULL) <= 0)
            continue;
        if (ready[hosts].revents) {
            if (read(0, bytes, sizeof bytes) <= 0)
                return 0;
            printf("%lu %lu %lu %.1f %.1f\n", sent, lost, full, came ? late / 1e3 / came : 0., latest / 1e3);
            fflush(stdout);
            sent = lost = full = came = late = latest = 0;
        }
        for (int host = 0; host < hosts; host++) {
            int length;
            for (int turn = 0; ready[host].revents && turn < BATCH; turn++) {
                if ((length = read(tun[host], bytes, sizeof bytes)) <= 0)
                    break;
                take(host, bytes, length, now());
            }
        }
    }
}
