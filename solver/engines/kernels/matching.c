/* Exact assignment over pairs for instances with many models: shortest augmenting paths from an auction's start.
 *
 * Every agent takes one slot of one model, or none. Unlike the transportation kernel, which keeps a matrix over pairs of
 * models, searches here go through the agents that hold a model's slots: the better way where models are many and
 * have few slots each. Pairs are given as compressed rows, or as a dense matrix.
 *
 * First every agent bids once or a few times for its best model (the augmenting row reduction of Jonker and Volgenant
 * 1987), then whoever is left is inserted by a shortest augmenting path with a heap (Tomizawa 1971; Edmonds and Karp
 * 1972). Prices are above zero only where all slots are taken, all the time. At the end one search from everything that
 * costs nothing lowers them to the smallest that support the assignment.
 *
 * Time O(n p log m) at most for p pairs, usually a small multiple of p; memory O(n + m).
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { SOLVED = 0, INFEASIBLE = 1, OUT_OF_TIME = 2, BAD_INPUT = 3, NO_MEMORY = 4 };

#define BIDS_PER_AGENT 8       /* on average, after which searches go on */
#define AUCTION_FIRST 0.2      /* least raise of the first phase, in ranges of the values */
#define AUCTION_LAST 0.3       /* of the last, in ranges over agents */
#define AUCTION_DIVISOR 5.0    /* between phases */
#define AUCTION_BIDS 20        /* per agent and phase at most */
#define WORK_PER_LOOK 200000   /* pairs between two looks at the clock */

typedef struct {
    double key;
    int64_t model;
} Entry;

typedef struct {
    int64_t n, m;
    const int64_t *first;   /* (n + 1,) start of each agent's pairs, or NULL for dense rows */
    const int64_t *model;   /* (p,) */
    const double *value;    /* (p,) or (n, m); -inf forbids */
    const double *outside;  /* (n,) or NULL where no agent may stay out */
    const int64_t *slots;   /* (m,) */
    double until;           /* CLOCK_MONOTONIC seconds */
    int64_t work;           /* pairs looked at since the last look at the clock */
    double *price;          /* (m,) */
    int64_t *load;          /* (m,) */
    int64_t *at;            /* (n,) model of each agent, -1 for none yet, m for outside */
    double *own;            /* (n,) value of what it has */
    int64_t *head;          /* (m,) agents of a model as a list */
    int64_t *next, *prev;   /* (n,) */
    double *dist;           /* (m,) */
    int64_t *mover;         /* (m,) agent that would move there */
    int64_t *touched;       /* (m,) models with a finite distance */
    int64_t touches;
    uint8_t *done;          /* (m,) */
    Entry *heap;
    int64_t size, room;
    int failed;             /* out of memory for the heap */
} Matching;

typedef struct {
    const double *value;
    const int64_t *model; /* NULL for dense */
    int64_t count;
} Row;

static inline Row row_of(const Matching *t, int64_t i)
{
    if (!t->first)
        return (Row){t->value + i * t->m, NULL, t->m};
    return (Row){t->value + t->first[i], t->model + t->first[i], t->first[i + 1] - t->first[i]};
}

static inline double outside_of(const Matching *t, int64_t i)
{
    return t->outside ? t->outside[i] : -INFINITY;
}

/* The value of a pair that is known to be among the agent's. */
static inline double value_at(const Matching *t, int64_t i, int64_t node)
{
    if (node == t->m)
        return outside_of(t, i);
    Row row = row_of(t, i);
    int64_t e = node;
    if (row.model)
        for (e = 0; row.model[e] != node; e++)
            ;
    return row.value[e];
}

static int out_of_time(Matching *t)
{
    if (t->work < WORK_PER_LOOK)
        return 0;
    t->work = 0;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec >= t->until;
}

static void push(Matching *t, double key, int64_t model)
{
    if (t->size == t->room) {
        int64_t room = 2 * t->room;
        Entry *heap = realloc(t->heap, sizeof(Entry) * (size_t)room);
        if (!heap) {
            t->failed = 1;
            return;
        }
        t->heap = heap;
        t->room = room;
    }
    int64_t at = t->size++;
    while (at > 0) {
        int64_t above = (at - 1) / 2;
        if (t->heap[above].key <= key)
            break;
        t->heap[at] = t->heap[above];
        at = above;
    }
    t->heap[at] = (Entry){key, model};
}

static Entry pop(Matching *t)
{
    Entry top = t->heap[0], last = t->heap[--t->size];
    int64_t at = 0;
    for (;;) {
        int64_t below = 2 * at + 1;
        if (below >= t->size)
            break;
        if (below + 1 < t->size && t->heap[below + 1].key < t->heap[below].key)
            below++;
        if (last.key <= t->heap[below].key)
            break;
        t->heap[at] = t->heap[below];
        at = below;
    }
    t->heap[at] = last;
    return top;
}

static void join(Matching *t, int64_t i, int64_t model)
{
    t->at[i] = model;
    t->own[i] = value_at(t, i, model);
    t->prev[i] = t->next[i] = -1;
    if (model == t->m)
        return;
    t->next[i] = t->head[model];
    if (t->head[model] >= 0)
        t->prev[t->head[model]] = i;
    t->head[model] = i;
    t->load[model]++;
}

static void leave(Matching *t, int64_t i)
{
    int64_t model = t->at[i];
    if (t->prev[i] >= 0)
        t->next[t->prev[i]] = t->next[i];
    else
        t->head[model] = t->next[i];
    if (t->next[i] >= 0)
        t->prev[t->next[i]] = t->prev[i];
    t->load[model]--;
    t->at[i] = -1;
}

/* Finds the best and the second best of an agent's options at the prices; model -1 if it has none. */
static void best_two(Matching *t, int64_t i, int64_t *first, double *best, int64_t *second, double *next)
{
    Row row = row_of(t, i);
    double top = outside_of(t, i), after = -INFINITY;
    int64_t j1 = top > -INFINITY ? t->m : -1, j2 = -1;
    const double *price = t->price;
    t->work += row.count;
    for (int64_t e = 0; e < row.count; e++) {
        int64_t k = row.model ? row.model[e] : e;
        double net = row.value[e] - price[k];
        if (net > after && t->slots[k] > 0) {
            if (net > top || (net == top && j1 >= 0 && j1 < t->m && t->load[j1] >= t->slots[j1])) {
                after = top;
                j2 = j1;
                top = net;
                j1 = k;
            } else {
                after = net;
                j2 = k;
            }
        }
    }
    *first = j1;
    *best = top;
    *second = j2;
    *next = after;
}

/* Bids agent by agent; whoever cannot be placed without a search is left at -1. Returns a status. */
static int bid(Matching *t)
{
    int64_t most = BIDS_PER_AGENT * t->n;
    for (int64_t start = 0; start < t->n; start++) {
        int64_t i = start;
        while (i >= 0) {
            if (out_of_time(t))
                return OUT_OF_TIME;
            int64_t j, other;
            double best, next;
            best_two(t, i, &j, &best, &other, &next);
            if (j < 0)
                return INFEASIBLE;
            if (j < t->m && t->load[j] >= t->slots[j] && next == best && other >= 0 &&
                (other == t->m || t->load[other] < t->slots[other]))
                j = other;
            if (j == t->m || t->load[j] < t->slots[j]) {
                join(t, i, j);
                break;
            }
            /* Only where a single agent holds the model may its price rise to the bidder's indifference. */
            if (t->slots[j] > 1 || !(next > -INFINITY) || !(best > next) || most-- <= 0)
                break;
            int64_t displaced = t->head[j];
            leave(t, displaced);
            t->price[j] += best - next;
            join(t, i, j);
            i = displaced;
        }
    }
    return SOLVED;
}

static inline void reach_model(Matching *t, int64_t k, double dist, int64_t mover, double *reach, int64_t *end)
{
    if (dist >= t->dist[k] || dist >= *reach)
        return;
    if (t->dist[k] == INFINITY)
        t->touched[t->touches++] = k;
    t->dist[k] = dist;
    t->mover[k] = mover;
    if (t->load[k] < t->slots[k]) {
        *reach = dist;
        *end = k;
    } else {
        push(t, dist, k);
    }
}

/* Distances to the options of an agent that holds net at base. */
static inline void relax(Matching *t, int64_t i, double net, double base, double *reach, int64_t *end, int64_t *leaver)
{
    Row row = row_of(t, i);
    const double *price = t->price;
    t->work += row.count;
    double offset = base + net;
    for (int64_t e = 0; e < row.count; e++) {
        int64_t k = row.model ? row.model[e] : e;
        double dist = offset - (row.value[e] - price[k]);
        if (dist < *reach && dist < t->dist[k] && !t->done[k] && t->slots[k] > 0)
            reach_model(t, k, dist < base ? base : dist, i, reach, end);
    }
    double dist = offset - outside_of(t, i);
    if (dist < *reach) {
        *reach = dist < base ? base : dist;
        *end = t->m;
        *leaver = i;
    }
}

/* Inserts an agent by a shortest augmenting path. */
static int insert(Matching *t, int64_t i)
{
    int64_t m = t->m, j, other, end = -1, leaver = -1, scanned = 0;
    double best, next, reach = INFINITY;
    best_two(t, i, &j, &best, &other, &next);
    if (j < 0)
        return INFEASIBLE;
    t->touches = 0;
    t->size = 0;
    relax(t, i, best, 0.0, &reach, &end, &leaver);
    while (t->size > 0 && !t->failed) {
        Entry top = pop(t);
        if (top.key >= reach)
            break;
        if (t->done[top.model] || top.key > t->dist[top.model])
            continue;
        t->done[top.model] = 1;
        scanned++;
        for (int64_t a = t->head[top.model]; a >= 0; a = t->next[a])
            relax(t, a, t->own[a] - t->price[top.model], top.key, &reach, &end, &leaver);
    }
    for (int64_t s = 0; s < t->touches; s++) {
        int64_t k = t->touched[s];
        if (t->done[k] && end >= 0 && reach > t->dist[k])
            t->price[k] += reach - t->dist[k];
        t->done[k] = 0;
        t->dist[k] = INFINITY;
    }
    if (t->failed)
        return NO_MEMORY;
    if (end < 0)
        return INFEASIBLE;
    int64_t to = end;
    int64_t who = end == m ? leaver : t->mover[end];
    for (;;) {
        int64_t from = t->at[who];
        if (from >= 0)
            leave(t, who);
        join(t, who, to);
        if (from < 0)
            return SOLVED;
        to = from;
        who = t->mover[to];
    }
}

/* Lowers prices to the smallest that support the assignment: how far each may fall is a shortest path. */
static int lower(Matching *t)
{
    int64_t n = t->n, m = t->m, priced = 0;
    t->size = 0;
    for (int64_t k = 0; k < m; k++) {
        t->done[k] = t->price[k] <= 0.0;
        t->dist[k] = t->done[k] ? 0.0 : t->price[k];
        if (!t->done[k]) {
            push(t, t->price[k], k);
            t->touched[priced++] = k;
        }
    }
    if (!priced)
        return t->failed ? NO_MEMORY : SOLVED;
    int64_t free_agent = 0; /* first come the agents at models that cost nothing, and those outside */
    for (;;) {
        int64_t a = -1, stop = -1;
        double base = 0.0;
        if (free_agent < n) {
            a = free_agent++;
            if (t->at[a] < m && t->price[t->at[a]] > 0.0)
                continue;
            stop = t->next[a];
        } else {
            if (!t->size || t->failed)
                break;
            Entry top = pop(t);
            if (t->done[top.model])
                continue;
            t->done[top.model] = 1;
            base = top.key;
            a = t->head[top.model];
        }
        if (out_of_time(t))
            return OUT_OF_TIME;
        for (; a >= 0 && a != stop; a = t->next[a]) {
            Row row = row_of(t, a);
            int64_t count = row.model ? row.count : priced;
            double offset = base + t->own[a] - (t->at[a] < m ? t->price[t->at[a]] : 0.0);
            t->work += count;
            for (int64_t e = 0; e < count; e++) {
                int64_t k = row.model ? row.model[e] : t->touched[e];
                double dist = offset - (row.value[row.model ? e : k] - t->price[k]);
                if (dist < t->dist[k] && !t->done[k]) {
                    t->dist[k] = dist < base ? base : dist;
                    push(t, t->dist[k], k);
                }
            }
        }
    }
    for (int64_t k = 0; k < m; k++)
        if (t->price[k] > 0.0) {
            t->price[k] -= t->dist[k];
            if (t->price[k] < 0.0)
                t->price[k] = 0.0;
        }
    return t->failed ? NO_MEMORY : SOLVED;
}

/* Prices models without slots at the least that deters every agent. */
static void price_closed(Matching *t)
{
    int any = 0;
    for (int64_t k = 0; k < t->m; k++)
        any |= t->slots[k] == 0;
    if (!any)
        return;
    for (int64_t i = 0; i < t->n; i++) {
        Row row = row_of(t, i);
        double net = t->own[i] - (t->at[i] < t->m ? t->price[t->at[i]] : 0.0);
        for (int64_t e = 0; e < row.count; e++) {
            int64_t k = row.model ? row.model[e] : e;
            if (t->slots[k] == 0 && row.value[e] - net > t->price[k])
                t->price[k] = row.value[e] - net;
        }
    }
}

static void clear(Matching *t)
{
    for (int64_t k = 0; k < t->m; k++) {
        t->head[k] = -1;
        t->load[k] = 0;
        t->dist[k] = INFINITY;
    }
    for (int64_t i = 0; i < t->n; i++)
        t->at[i] = -1;
}

/* Whether every slot will be taken, one a model: then any prices are a valid start. */
static int is_perfect(const Matching *t)
{
    if (t->outside || t->n != t->m)
        return 0;
    for (int64_t k = 0; k < t->m; k++)
        if (t->slots[k] != 1)
            return 0;
    return 1;
}

/* Start prices by an auction whose least raise falls from phase to phase (Bertsekas 1988). */
static int auction(Matching *t)
{
    int64_t n = t->n, left = 0;
    int64_t *waiting = t->prev; /* free between two phases: lists are not used */
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        Row row = row_of(t, i);
        for (int64_t e = 0; e < row.count; e++) {
            double v = row.value[e];
            low = v > -INFINITY && v < low ? v : low;
            high = v > high ? v : high;
        }
    }
    if (!(high > low) || !(high - low < INFINITY))
        return SOLVED;
    int64_t *holder = t->head;
    for (double raise = (high - low) * AUCTION_FIRST; raise > (high - low) * AUCTION_LAST / (double)n;
         raise /= AUCTION_DIVISOR) {
        for (int64_t k = 0; k < t->m; k++)
            holder[k] = -1;
        left = 0;
        for (int64_t i = n; i > 0; i--)
            waiting[left++] = i - 1;
        for (int64_t bids = AUCTION_BIDS * n; left > 0 && bids > 0; bids--) {
            int64_t i = waiting[--left], j, other;
            double best, next;
            if (out_of_time(t))
                return OUT_OF_TIME;
            best_two(t, i, &j, &best, &other, &next);
            if (j < 0)
                return INFEASIBLE;
            if (holder[j] >= 0)
                waiting[left++] = holder[j];
            holder[j] = i;
            t->price[j] += (next > -INFINITY ? best - next : 0.0) + raise;
        }
    }
    clear(t);
    return SOLVED;
}

/* Adds to all prices what makes the least of them zero: with every slot taken that changes nothing else. */
static void shift(Matching *t)
{
    double least = INFINITY;
    for (int64_t k = 0; k < t->m; k++)
        least = t->price[k] < least ? t->price[k] : least;
    for (int64_t k = 0; k < t->m; k++)
        t->price[k] -= least;
}

static int solve(Matching *t)
{
    int64_t n = t->n;
    int perfect = is_perfect(t);
    clear(t);
    int status = perfect ? auction(t) : SOLVED;
    if (status == SOLVED)
        status = bid(t);
    for (int64_t i = 0; status == SOLVED && i < n; i++) {
        if (t->at[i] >= 0)
            continue;
        status = out_of_time(t) ? OUT_OF_TIME : insert(t, i);
    }
    if (status == SOLVED && perfect)
        shift(t);
    if (status == SOLVED)
        status = lower(t);
    if (status == SOLVED)
        price_closed(t);
    return status;
}

/* Solves max sum of values subject to slots, exactly in double arithmetic up to rounding.
 *
 * With first (n + 1,) and model (p,), value is (p,) and pairs come row by row, each once; with both NULL, value is
 * (n, m), -inf for forbidden pairs. outside (n,) value of staying unassigned, -inf where an agent must be served, or
 * NULL where all must; slots (m,) >= 0; no NaN. Writes choice (n,), -1 for unassigned, and the smallest prices (m,) that
 * support it among these pairs. Returns one of the codes above; the outputs are complete only with SOLVED.
 */
int solver_match(int64_t n, int64_t m, const int64_t *first, const int64_t *model, const double *value,
                 const double *outside, const int64_t *slots, double until, int64_t *choice, double *prices)
{
    if (n < 1 || m < 1 || !value || !slots || !choice || !prices || !first != !model)
        return BAD_INPUT;
    for (int64_t k = 0; k < m; k++)
        if (slots[k] < 0)
            return BAD_INPUT;
    if (first) {
        if (first[0] != 0)
            return BAD_INPUT;
        for (int64_t i = 0; i < n; i++)
            if (first[i + 1] < first[i])
                return BAD_INPUT;
        for (int64_t e = 0; e < first[n]; e++)
            if (model[e] < 0 || model[e] >= m)
                return BAD_INPUT;
    }
    size_t agents = (size_t)n, models = (size_t)m;
    Matching t = {.n = n, .m = m, .first = first, .model = model, .value = value, .outside = outside,
                  .slots = slots, .until = until, .room = m + 16};
    t.price = calloc(models, sizeof(double));
    t.load = calloc(models, sizeof(int64_t));
    t.at = malloc(sizeof(int64_t) * agents);
    t.own = malloc(sizeof(double) * agents);
    t.head = malloc(sizeof(int64_t) * models);
    t.next = malloc(sizeof(int64_t) * agents);
    t.prev = malloc(sizeof(int64_t) * agents);
    t.dist = malloc(sizeof(double) * models);
    t.mover = malloc(sizeof(int64_t) * models);
    t.touched = malloc(sizeof(int64_t) * models);
    t.done = calloc(models, 1);
    t.heap = malloc(sizeof(Entry) * (size_t)t.room);
    int status = NO_MEMORY;
    if (t.price && t.load && t.at && t.own && t.head && t.next && t.prev && t.dist && t.mover && t.touched && t.done &&
        t.heap) {
        status = solve(&t);
        if (status == SOLVED) {
            for (int64_t i = 0; i < n; i++)
                choice[i] = t.at[i] == m ? -1 : t.at[i];
            for (int64_t k = 0; k < m; k++)
                prices[k] = t.price[k];
        }
    }
    free(t.price); free(t.load); free(t.at); free(t.own); free(t.head); free(t.next); free(t.prev); free(t.dist);
    free(t.mover); free(t.touched); free(t.done); free(t.heap);
    return status;
}
