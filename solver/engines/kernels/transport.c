/* Exact transportation for slot instances: successive shortest augmenting paths on the models.
 *
 * Every agent takes one slot of one model, or none; with copies and counts, a row has several units to place, at most
 * `width` of them on one model. Units are inserted one row after the other; each insertion is one Dijkstra search over
 * m + 1 nodes, the models and "unassigned". The length of an arc from j to k is the least loss of a unit of j that
 * moves to k, less the difference of the prices (Busacker and Gowen 1961; Tomizawa 1971; Edmonds and Karp 1972). The
 * exchange matrix of these losses is kept lazily: when the unit that attains an entry leaves, the entry stays as a
 * lower bound and is recomputed only where the search would use it.
 *
 * A slot costs what its tier costs, so that a model offers its next slot once its price reaches that cost: nothing
 * where slots are free, minus infinity below the model's floor, infinity where it is full. Start prices come from a
 * sample of the rows, solved in the same way. They may be too high for a model that is left with a cheaper slot idle;
 * reverse searches then lower prices until no such slot is left, which also fills the floors. The smallest optimal
 * prices are read off the exchange matrix at the end.
 *
 * Time O(n m) for direct insertions and O(m^2) for every search; memory O(n + m^2), O(n m) with copies or counts.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SOLVED = 0, INFEASIBLE = 1, OUT_OF_TIME = 2, BAD_INPUT = 3, NO_MEMORY = 4, TOO_LONG = 5 };

#define SAMPLE_DIVISOR 4        /* a sample is one row of four */
#define MIN_PER_MODEL 10        /* and at least so many rows per model */
#define SEARCHES_PER_LOOK 32    /* searches between two looks at the clock, and fewer where they are long: */
#define ARCS_PER_LOOK 200000    /* arcs between nodes that those searches may look at */
#define SEARCHES_PER_NODE 64    /* searches per row, copy, tier and model after which flows of many units give up */
#define MAX_UNITS (1LL << 40)  /* of all rows together */
#define GOLDEN 0.6180339887498949

typedef struct {
    int64_t n, m;            /* rows in this solve, models */
    const void *value;       /* (agents, m) scores; -inf forbids */
    const double *outside;   /* (agents,) value of staying unassigned; -inf forbids; NULL where no agent may */
    const int64_t *row;      /* (n,) rows of value to solve, or NULL for all */
    const int64_t *slots;    /* (m,) */
    const int64_t *floor;    /* (m,) slots that must be used, or NULL */
    int64_t tiers;           /* tiers of cost per model */
    const double *tier_cost; /* (m, tiers) cost of a slot, non-decreasing along tiers, or NULL where slots are free */
    const int64_t *tier_end; /* (m, tiers) slots up to the end of each tier, the last is slots */
    const int64_t *width;    /* (agents,) most units of a row on one model, or NULL for one */
    const int64_t *copies;   /* (agents,) units of a row in widths, or NULL for one */
    double until;            /* CLOCK_MONOTONIC seconds */
    int64_t searches, most_searches, searches_per_look, next_look;
    int64_t *load;           /* (m + 1,) */
    double *price;           /* (m + 1,) */
    double *next_cost;       /* (m + 1,) least price at which a node takes one unit more */
    double *last_cost;       /* (m + 1,) price at which it gives one up */
    double *loss;            /* (m + 1, m + 1) exchange matrix, a lower bound where stale */
    int32_t *mover;          /* (m + 1, m + 1) row that attains it, -1 for none */
    int32_t *at;             /* (n,) node of each row, -1 before insertion; one unit per row */
    int64_t *units;          /* (n, m + 1) units of each row on each node; several units per row */
    int32_t *next, *prev;    /* members of a node as a list, by row, or by row and node */
    int32_t *head;           /* (m + 1,) */
    double *dist;            /* (m + 1,) */
    int32_t *from;           /* (m + 1,) */
    int32_t *scanned;        /* (m + 1,) nodes in the order of the search */
    int32_t *path, *walker;  /* (m + 1,) nodes of a path from its end, and the row that moves on from each */
    uint8_t *done;           /* (m + 1,) */
} Transport;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t agent_of(const Transport *t, int64_t i)
{
    return t->row ? t->row[i] : i;
}

static inline double outside_of(const Transport *t, int64_t i)
{
    return t->outside ? t->outside[agent_of(t, i)] : -INFINITY;
}

static inline int64_t width_of(const Transport *t, int64_t i)
{
    return t->width ? t->width[agent_of(t, i)] : 1;
}

static inline int64_t supply_of(const Transport *t, int64_t i)
{
    return width_of(t, i) * (t->copies ? t->copies[agent_of(t, i)] : 1);
}

/* The tier of a model's slot, counted from 1. */
static int64_t tier_of(const Transport *t, int64_t node, int64_t slot)
{
    const int64_t *end = t->tier_end + node * t->tiers;
    int64_t tier = 0;
    while (tier + 1 < t->tiers && end[tier] < slot)
        tier++;
    return tier;
}

/* Updates the prices at which a node takes and gives up a unit, after its load has changed. */
static inline void price_supply(Transport *t, int64_t node)
{
    if (node == t->m)
        return;
    int64_t load = t->load[node], floor = t->floor ? t->floor[node] : 0;
    double next = 0.0, last = 0.0;
    if (t->tier_cost) {
        const double *cost = t->tier_cost + node * t->tiers;
        next = load < t->slots[node] ? cost[tier_of(t, node, load + 1)] : INFINITY;
        last = load > 0 ? cost[tier_of(t, node, load)] : -INFINITY;
    } else if (load >= t->slots[node]) {
        next = INFINITY;
    }
    t->next_cost[node] = load < floor ? -INFINITY : next;
    t->last_cost[node] = load > floor ? last : -INFINITY;
}

/* Units that a node takes at its next cost. */
static int64_t room_above(const Transport *t, int64_t node)
{
    if (node == t->m)
        return INT64_MAX;
    int64_t load = t->load[node], end = t->slots[node];
    if (t->floor && load < t->floor[node])
        return t->floor[node] - load;
    return (t->tier_cost ? t->tier_end[node * t->tiers + tier_of(t, node, load + 1)] : end) - load;
}

/* Units that a node gives up at its last cost. */
static int64_t room_below(const Transport *t, int64_t node)
{
    int64_t load = t->load[node], start = 0;
    if (node == t->m)
        return load;
    if (t->tier_cost) {
        int64_t tier = tier_of(t, node, load);
        start = tier > 0 ? t->tier_end[node * t->tiers + tier - 1] : 0;
    }
    return load - (t->floor && t->floor[node] > start ? t->floor[node] : start);
}

static inline int has_room(const Transport *t, int64_t node)
{
    return t->next_cost[node] <= t->price[node];
}

/* Reduced length of the exchange j -> k, or a lower bound of it where the entry is stale. */
static inline double length_of(const Transport *t, int64_t j, int64_t k)
{
    return fmax(0.0, t->loss[j * (t->m + 1) + k] + (t->price[k] - t->price[j]));
}

/* The open node of least distance, one with room first among equals; -1 if none is within reach. */
static int64_t nearest(const Transport *t)
{
    int64_t best = -1;
    double closest = INFINITY;
    for (int64_t k = 0; k <= t->m; k++)
        if (!t->done[k] && (t->dist[k] < closest || (t->dist[k] == closest && best >= 0 && has_room(t, k)))) {
            closest = t->dist[k];
            best = k;
        }
    return best;
}

static inline void shorten(Transport *t, int64_t k, int64_t from, double dist)
{
    if (dist < t->dist[k]) {
        t->dist[k] = dist;
        t->from[k] = (int32_t)from;
    }
}

static inline void offer(Transport *t, int64_t j, int64_t k, double loss, int64_t mover)
{
    int64_t e = j * (t->m + 1) + k;
    if (loss <= t->loss[e]) {
        t->loss[e] = loss;
        t->mover[e] = (int32_t)mover;
    }
}

/* Whether time or the searches are used up: the code to return, or SOLVED. Not inlined: loops around it were slower. */
static __attribute__((noinline)) int look(Transport *t)
{
    if (++t->searches > t->most_searches)
        return TOO_LONG;
    if (t->searches < t->next_look)
        return SOLVED;
    t->next_look = t->searches + t->searches_per_look;
    return seconds() >= t->until ? OUT_OF_TIME : SOLVED;
}

/* Raises prices until no exchange and no floor contradicts them, from prices that are too low; 0 for "unassigned". */
static void raise_prices(Transport *t)
{
    int64_t m = t->m;
    double *price = t->price;
    for (int64_t round = 0; round <= m; round++) { /* a longest path visits every node at most once */
        int raised = 0;
        for (int64_t j = 0; j <= m; j++) {
            if (t->head[j] < 0 || price[j] == -INFINITY)
                continue;
            for (int64_t k = 0; k < m; k++) {
                double p = price[j] - t->loss[j * (m + 1) + k];
                if (p > price[k] && k != j) {
                    price[k] = p;
                    raised = 1;
                }
            }
        }
        if (!raised)
            break;
    }
}

/* Gives the models whose price nothing keeps from falling the highest price up to zero that the rest allows. */
static void price_the_free(Transport *t)
{
    int64_t m = t->m;
    double *price = t->price;
    uint8_t *is_free = t->done;
    for (int64_t j = 0; j <= m; j++) {
        is_free[j] = price[j] == -INFINITY;
        if (is_free[j])
            price[j] = fmin(0.0, t->next_cost[j]);
    }
    for (int64_t round = 0; round <= m; round++) {
        int lowered = 0;
        for (int64_t j = 0; j < m; j++) {
            if (!is_free[j])
                continue;
            for (int64_t k = 0; k <= m; k++) {
                double p = price[k] + t->loss[j * (m + 1) + k];
                if (k != j && p < price[j]) {
                    price[j] = p;
                    lowered = 1;
                }
            }
        }
        if (!lowered)
            break;
    }
}

/* Shares of slots, floors and tiers for a sample, rounded so that every sum from the first model on is right to half
 * a slot. `space` has room for (2 + tiers) * m numbers. */
static void share_supply(Transport *sample, double share, int64_t *space)
{
    int64_t m = sample->m, given = 0;
    int64_t *slots = space, *floor = space + m, *end = space + 2 * m;
    double total = 0.0;
    for (int64_t k = 0; k < m; k++) {
        total += (double)sample->slots[k] * share;
        int64_t upto = (int64_t)(total + 0.5);
        slots[k] = upto - given;
        given = upto;
        if (slots[k] == 0 && sample->slots[k] > 0)
            slots[k] = 1;
        floor[k] = sample->floor ? least((int64_t)((double)sample->floor[k] * share), slots[k]) : 0;
        double scale = sample->slots[k] > 0 ? (double)slots[k] / (double)sample->slots[k] : 0.0;
        for (int64_t tier = 0; sample->tier_cost && tier < sample->tiers; tier++) {
            int64_t e = k * sample->tiers + tier;
            end[e] = least((int64_t)((double)sample->tier_end[e] * scale + 0.5), slots[k]);
        }
    }
    sample->slots = slots;
    if (sample->floor)
        sample->floor = floor;
    if (sample->tier_cost)
        sample->tier_end = end;
}

#define SEVERAL 0
#define REAL double
#define NAME(function) function##_f64
#include "transport_search.h"
#undef REAL
#undef NAME
#define REAL float
#define NAME(function) function##_f32
#include "transport_search.h"
#undef REAL
#undef NAME
#undef SEVERAL
#define SEVERAL 1
#define REAL double
#define NAME(function) function##_several_f64
#include "transport_search.h"
#undef REAL
#undef NAME
#define REAL float
#define NAME(function) function##_several_f32
#include "transport_search.h"

static int is_wrong(const Transport *t)
{
    if (t->n < 1 || t->m < 1 || t->n > INT32_MAX - 1 || t->m > 32767 || !t->value || !t->slots)
        return 1;
    for (int64_t k = 0; k < t->m; k++) {
        if (t->slots[k] < 0 || t->slots[k] > MAX_UNITS)
            return 1;
        if (t->floor && (t->floor[k] < 0 || t->floor[k] > MAX_UNITS))
            return 1;
        int64_t before = 0;
        for (int64_t tier = 0; t->tier_cost && tier < t->tiers; tier++) {
            int64_t end = t->tier_end[k * t->tiers + tier];
            if (end < before || end > t->slots[k] || (tier + 1 == t->tiers && end != t->slots[k]))
                return 1;
            before = end;
        }
    }
    double total = 0.0;
    for (int64_t i = 0; i < t->n && (t->width || t->copies); i++) {
        if ((t->width && (t->width[i] < 1 || t->width[i] > MAX_UNITS)) ||
            (t->copies && (t->copies[i] < 1 || t->copies[i] > MAX_UNITS)))
            return 1;
        total += (t->width ? (double)t->width[i] : 1.0) * (t->copies ? (double)t->copies[i] : 1.0);
    }
    return total > (double)MAX_UNITS;
}

/* The next `count` items of an arena, or of its size while there is none. */
static void *take(char *arena, size_t *used, size_t count, size_t size)
{
    void *place = arena ? arena + *used : NULL;
    *used += (count * size + 15) / 16 * 16;
    return place;
}

/* Points the arrays of `t` into an arena; returns the bytes it needs. */
static size_t lay_out(Transport *t, char *arena, int64_t **row, int64_t **shares, int several)
{
    size_t n = (size_t)t->n, m = (size_t)t->m, nodes = m + 1, used = 0, levels = 1;
    size_t members = several ? n * nodes : n;
    for (size_t size = n; size > 0; size /= SAMPLE_DIVISOR)
        levels++;
    *row = take(arena, &used, n, sizeof(int64_t));
    *shares = take(arena, &used, (2 + (size_t)t->tiers) * m * levels, sizeof(int64_t));
    t->load = take(arena, &used, nodes, sizeof(int64_t));
    t->price = take(arena, &used, nodes, sizeof(double));
    t->next_cost = take(arena, &used, nodes, sizeof(double));
    t->last_cost = take(arena, &used, nodes, sizeof(double));
    t->loss = take(arena, &used, nodes * nodes, sizeof(double));
    t->dist = take(arena, &used, nodes, sizeof(double));
    t->mover = take(arena, &used, nodes * nodes, sizeof(int32_t));
    t->at = take(arena, &used, several ? 0 : n, sizeof(int32_t));
    t->next = take(arena, &used, members, sizeof(int32_t));
    t->prev = take(arena, &used, members, sizeof(int32_t));
    t->head = take(arena, &used, nodes, sizeof(int32_t));
    t->from = take(arena, &used, nodes, sizeof(int32_t));
    t->scanned = take(arena, &used, nodes, sizeof(int32_t));
    t->path = take(arena, &used, nodes, sizeof(int32_t));
    t->walker = take(arena, &used, nodes, sizeof(int32_t));
    t->done = take(arena, &used, nodes, 1);
    return used;
}

/* Solves max sum of values less the cost of slots, subject to slots and floors, exactly in double arithmetic up to
 * rounding.
 *
 * value (n, m), float where `is_float` and else double, with -inf for forbidden pairs, no NaN; outside (n,) value of
 * staying unassigned with -inf where an agent must be served, NULL where all must; slots (m,) >= 0. floor (m,),
 * tier_cost and tier_end (m, tiers), width and copies (n,) may be NULL. `bounded` asks for prices that are bounded below
 * by the cost of the last slot alone, and may be negative where a floor binds; otherwise they are >= 0. Writes the
 * smallest supporting prices (m,), and choice (n,), -1 for unassigned, or units (n, m + 1), zeros at the start, with
 * width or copies. Returns one of the codes above; the outputs are complete only with SOLVED.
 */
int solver_transport(int64_t n, int64_t m, const void *value, int is_float, const double *outside,
                     const int64_t *slots, const int64_t *floor, int64_t tiers, const double *tier_cost,
                     const int64_t *tier_end, const int64_t *width, const int64_t *copies, int bounded, double until,
                     int64_t *choice, int64_t *units, double *prices)
{
    Transport t = {.n = n, .m = m, .value = value, .outside = outside, .slots = slots, .floor = floor,
                   .tiers = tier_cost ? tiers : 0, .tier_cost = tier_cost, .tier_end = tier_end, .width = width,
                   .copies = copies, .until = until, .most_searches = INT64_MAX, .units = units};
    int several = width || copies;
    if (!prices || (several ? !units : !choice) || (tier_cost && (!tier_end || tiers < 1 || tiers > 1000000)))
        return BAD_INPUT;
    if (is_wrong(&t))
        return BAD_INPUT;
    t.next_look = t.searches_per_look = 1 + least(SEARCHES_PER_LOOK - 1, ARCS_PER_LOOK / ((m + 1) * (m + 1)));
    for (int64_t k = 0; k < m; k++)
        if (floor && floor[k] > slots[k])
            return INFEASIBLE;
    if (several) {
        double copied = 0.0;
        for (int64_t i = 0; i < n; i++)
            copied += copies ? fmin((double)copies[i], (double)m + 1) : 1.0;
        t.most_searches = (int64_t)(SEARCHES_PER_NODE * (copied + (double)m * (double)(1 + t.tiers)));
    }
    int64_t *row, *shares;
    char *arena = malloc(lay_out(&t, NULL, &row, &shares, several));
    if (!arena)
        return NO_MEMORY;
    lay_out(&t, arena, &row, &shares, several);
    int status;
    if (several)
        status = is_float ? solve_several_f32(&t, row, shares, bounded) : solve_several_f64(&t, row, shares, bounded);
    else
        status = is_float ? solve_f32(&t, row, shares, bounded) : solve_f64(&t, row, shares, bounded);
    if (status == SOLVED) {
        for (int64_t i = 0; i < n && !several; i++)
            choice[i] = t.at[i] == m ? -1 : t.at[i];
        for (int64_t k = 0; k < m; k++)
            prices[k] = t.price[k];
    }
    free(arena);
    return status;
}
