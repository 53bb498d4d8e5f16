/* Exact transportation for slot instances: successive shortest augmenting paths on the models.
 *
 * Every agent takes one slot of one model, or none. Agents are inserted one by one; each insertion is one Dijkstra
 * search over m + 1 nodes, the models and "unassigned". The length of an arc from j to k is the least loss of an agent
 * of j that moves to k, less the difference of the prices (Busacker and Gowen 1961; Tomizawa 1971; Edmonds and Karp
 * 1972). The exchange matrix of these losses is kept lazily: when the agent that attains an entry leaves, the entry
 * stays as a lower bound and is recomputed only where the search would use it.
 *
 * Start prices come from a sample of the agents, solved in the same way. A start price may be too high for a model that
 * is left with idle slots; reverse searches then lower prices until every idle slot has price zero. The smallest
 * optimal prices are read off the exchange matrix at the end.
 *
 * Time O(n m) for direct insertions and O(m^2) for every search; memory O(n + m^2).
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { SOLVED = 0, INFEASIBLE = 1, OUT_OF_TIME = 2, BAD_INPUT = 3, NO_MEMORY = 4 };

#define SAMPLE_DIVISOR 4       /* a sample is one agent of four */
#define LEAST_PER_MODEL 10     /* and at least so many agents per model */
#define SEARCHES_PER_LOOK 32   /* searches between two looks at the clock */
#define GOLDEN 0.6180339887498949

typedef struct {
    int64_t n, m;           /* agents in this solve, models */
    int64_t width;          /* columns of value */
    const double *value;    /* (agents, m); -inf forbids */
    const double *outside;  /* (agents,) value of staying unassigned; -inf forbids */
    const int64_t *row;     /* (n,) rows of value to solve, or NULL for all */
    const int64_t *slots;   /* (m,) */
    double until;           /* CLOCK_MONOTONIC seconds */
    int64_t searches;
    int64_t *load;          /* (m + 1,) */
    double *price;          /* (m + 1,) */
    double *loss;           /* (m + 1, m + 1) exchange matrix, a lower bound where stale */
    int32_t *mover;         /* (m + 1, m + 1) agent that attains it, -1 for none */
    int32_t *at;            /* (n,) node of each agent, -1 before insertion */
    int32_t *next, *prev;   /* (n,) members of a node as a list */
    int32_t *head;          /* (m + 1,) */
    double *dist;           /* (m + 1,) */
    int32_t *from;          /* (m + 1,) */
    int32_t *scanned;       /* (m + 1,) nodes in the order of the search */
    uint8_t *done;          /* (m + 1,) */
} Transport;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline const double *row_of(const Transport *t, int64_t i)
{
    return t->value + (t->row ? t->row[i] : i) * t->width;
}

static inline double outside_of(const Transport *t, int64_t i)
{
    return t->outside[t->row ? t->row[i] : i];
}

static inline double value_at(const Transport *t, int64_t i, int64_t node)
{
    return node == t->m ? outside_of(t, i) : row_of(t, i)[node];
}

static inline int has_room(const Transport *t, int64_t node)
{
    return node == t->m || t->load[node] < t->slots[node];
}

/* Puts an agent on a node and lowers the losses of the node's exchanges where this agent is the cheapest mover. */
static void join(Transport *t, int64_t i, int64_t node)
{
    int64_t m = t->m;
    const double *value = row_of(t, i);
    double own = node == m ? outside_of(t, i) : value[node];
    double *loss = t->loss + node * (m + 1);
    int32_t *mover = t->mover + node * (m + 1);
    for (int64_t k = 0; k < m; k++) {
        double w = own - value[k];
        if (w <= loss[k]) {
            loss[k] = w;
            mover[k] = (int32_t)i;
        }
    }
    if (own - outside_of(t, i) <= loss[m]) {
        loss[m] = own - outside_of(t, i);
        mover[m] = (int32_t)i;
    }
    t->at[i] = (int32_t)node;
    t->prev[i] = -1;
    t->next[i] = t->head[node];
    if (t->head[node] >= 0)
        t->prev[t->head[node]] = (int32_t)i;
    t->head[node] = (int32_t)i;
    t->load[node]++;
}

static void leave(Transport *t, int64_t i)
{
    int64_t node = t->at[i];
    if (t->prev[i] >= 0)
        t->next[t->prev[i]] = t->next[i];
    else
        t->head[node] = t->next[i];
    if (t->next[i] >= 0)
        t->prev[t->next[i]] = t->prev[i];
    t->load[node]--;
}

/* Recomputes one entry of the exchange matrix whose mover has left. */
static void refresh(Transport *t, int64_t j, int64_t k)
{
    double least = INFINITY;
    int32_t who = -1;
    for (int32_t a = t->head[j]; a >= 0; a = t->next[a]) {
        double w = value_at(t, a, j) - value_at(t, a, k);
        if (w < least) {
            least = w;
            who = a;
        }
    }
    t->loss[j * (t->m + 1) + k] = least;
    t->mover[j * (t->m + 1) + k] = who;
}

static inline int is_stale(const Transport *t, int64_t j, int64_t k)
{
    int32_t who = t->mover[j * (t->m + 1) + k];
    return who >= 0 && t->at[who] != j;
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
    double least = INFINITY;
    for (int64_t k = 0; k <= t->m; k++)
        if (!t->done[k] && (t->dist[k] < least || (t->dist[k] == least && best >= 0 && has_room(t, k)))) {
            least = t->dist[k];
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

/* Inserts an agent by a shortest augmenting path. */
static int insert(Transport *t, int64_t i)
{
    int64_t m = t->m;
    const double *value = row_of(t, i);
    double best = outside_of(t, i);
    int64_t favourite = m;
    for (int64_t k = 0; k < m; k++) {
        double net = value[k] - t->price[k];
        if (t->slots[k] > 0 && (net > best || (net == best && net > -INFINITY && !has_room(t, favourite)))) {
            best = net;
            favourite = k;
        }
    }
    if (best == -INFINITY)
        return INFEASIBLE;
    if (has_room(t, favourite)) {
        join(t, i, favourite);
        return SOLVED;
    }
    for (int64_t k = 0; k < m; k++) {
        t->dist[k] = t->slots[k] > 0 ? best - (value[k] - t->price[k]) : INFINITY;
        t->from[k] = -1;
        t->done[k] = 0;
    }
    t->dist[m] = best - outside_of(t, i);
    t->from[m] = -1;
    t->done[m] = 0;
    int64_t count = 0, target = -1;
    for (;;) {
        int64_t j = nearest(t);
        if (j < 0)
            return INFEASIBLE;
        if (t->from[j] >= 0 && is_stale(t, t->from[j], j)) { /* the distance was a lower bound */
            refresh(t, t->from[j], j);
            t->dist[j] = best - (value_at(t, i, j) - t->price[j]);
            t->from[j] = -1;
            for (int64_t s = 0; s < count; s++)
                shorten(t, j, t->scanned[s], t->dist[t->scanned[s]] + length_of(t, t->scanned[s], j));
            continue;
        }
        if (has_room(t, j)) {
            target = j;
            break;
        }
        t->done[j] = 1;
        t->scanned[count++] = (int32_t)j;
        for (int64_t k = 0; k <= m; k++) {
            if (!t->done[k] && (k == m || t->slots[k] > 0))
                shorten(t, k, j, t->dist[j] + length_of(t, j, k));
        }
    }
    double reach = t->dist[target];
    for (int64_t s = 0; s < count; s++)
        t->price[t->scanned[s]] += reach - t->dist[t->scanned[s]];
    int64_t k = target;
    while (t->from[k] >= 0) {
        int64_t j = t->from[k];
        int32_t who = t->mover[j * (m + 1) + k];
        leave(t, who);
        join(t, who, k);
        k = j;
    }
    join(t, i, k);
    return SOLVED;
}

/* Lowers the price of a model with an idle slot: to zero, or until agents move up and leave a worthless slot idle. */
static void lower(Transport *t, int64_t start)
{
    int64_t m = t->m;
    for (int64_t k = 0; k <= m; k++) {
        t->dist[k] = INFINITY;
        t->from[k] = -1;
        t->done[k] = 0;
    }
    t->dist[start] = 0.0;
    int64_t count = 0, target = start;
    double reach = t->price[start];
    for (;;) {
        int64_t x = nearest(t);
        if (x < 0 || t->dist[x] >= reach)
            break;
        if (t->from[x] >= 0 && is_stale(t, x, t->from[x])) {
            refresh(t, x, t->from[x]);
            t->dist[x] = INFINITY;
            for (int64_t s = 0; s < count; s++)
                shorten(t, x, t->scanned[s], t->dist[t->scanned[s]] + length_of(t, x, t->scanned[s]));
            continue;
        }
        t->done[x] = 1;
        t->scanned[count++] = (int32_t)x;
        if (t->dist[x] + t->price[x] < reach) { /* a slot of x may stay idle once its price is zero */
            reach = t->dist[x] + t->price[x];
            target = x;
        }
        for (int64_t k = 0; k <= m; k++) {
            if (!t->done[k] && t->head[k] >= 0)
                shorten(t, k, x, t->dist[x] + length_of(t, k, x));
        }
    }
    for (int64_t s = 0; s < count; s++) {
        int64_t k = t->scanned[s];
        if (k < m && t->dist[k] < reach)
            t->price[k] = fmax(0.0, t->price[k] - (reach - t->dist[k]));
    }
    if (target < m)
        t->price[target] = 0.0;
    for (int64_t k = target; k != start;) {
        int64_t x = t->from[k];
        int32_t who = t->mover[k * (m + 1) + x];
        leave(t, who);
        join(t, who, x);
        k = x;
    }
}

static int out_of_time(Transport *t)
{
    return ++t->searches % SEARCHES_PER_LOOK == 0 && seconds() >= t->until;
}

/* Assigns all agents of `t`, whose prices hold a start. */
static int assign(Transport *t)
{
    int64_t n = t->n, m = t->m;
    for (int64_t e = 0; e < (m + 1) * (m + 1); e++) {
        t->loss[e] = INFINITY;
        t->mover[e] = -1;
    }
    for (int64_t k = 0; k <= m; k++) {
        t->head[k] = -1;
        t->load[k] = 0;
    }
    for (int64_t i = 0; i < n; i++)
        t->at[i] = -1;
    for (int64_t i = 0; i < n; i++) {
        if (out_of_time(t))
            return OUT_OF_TIME;
        int status = insert(t, i);
        if (status != SOLVED)
            return status;
    }
    for (int64_t k = 0; k < m; k++)
        while (t->price[k] > 0.0 && t->slots[k] > 0 && t->load[k] < t->slots[k]) {
            if (out_of_time(t))
                return OUT_OF_TIME;
            lower(t, k);
        }
    return SOLVED;
}

/* The smallest prices that support the assignment: longest paths over exact losses; "unassigned" keeps price zero. */
static void smallest_prices(Transport *t)
{
    int64_t n = t->n, m = t->m;
    double *loss = t->loss, *price = t->price;
    for (int64_t e = 0; e < (m + 1) * (m + 1); e++)
        loss[e] = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const double *value = row_of(t, i);
        double own = value_at(t, i, t->at[i]);
        double *of = loss + (int64_t)t->at[i] * (m + 1);
        for (int64_t k = 0; k < m; k++) {
            double w = own - value[k];
            of[k] = w < of[k] ? w : of[k];
        }
    }
    for (int64_t k = 0; k <= m; k++)
        price[k] = 0.0;
    for (int64_t round = 0; round <= m; round++) { /* a longest path visits every node at most once */
        int raised = 0;
        for (int64_t j = 0; j <= m; j++) {
            if (t->head[j] < 0)
                continue;
            for (int64_t k = 0; k < m; k++) {
                double p = price[j] - loss[j * (m + 1) + k];
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

/* Prices of a sample of the rows with its share of the slots, as a start; recursive. */
static int start_prices(Transport *t, int64_t *row, int64_t *slots, double *price)
{
    int64_t m = t->m, n = t->n, size = n / SAMPLE_DIVISOR;
    if (size < LEAST_PER_MODEL * m)
        return SOLVED;
    for (int64_t s = 0; s < size; s++) {
        double place = (double)s + fmod((double)s * GOLDEN, 1.0);
        int64_t i = (int64_t)(place * ((double)n / (double)size));
        i = i < n ? i : n - 1;
        row[s] = t->row ? t->row[i] : i;
    }
    double share = (double)size / (double)n, total = 0.0;
    int64_t given = 0;
    for (int64_t k = 0; k < m; k++) { /* rounded so that every sum from the first on is right to half a slot */
        total += (double)t->slots[k] * share;
        int64_t upto = (int64_t)(total + 0.5);
        slots[k] = upto - given;
        given = upto;
        if (slots[k] == 0 && t->slots[k] > 0)
            slots[k] = 1;
    }
    Transport sample = *t;
    sample.n = size;
    sample.row = row;
    sample.slots = slots;
    int status = start_prices(&sample, row + size, slots + m, price);
    if (status != SOLVED)
        return status;
    for (int64_t k = 0; k < m; k++)
        sample.price[k] = price[k];
    sample.price[m] = 0.0;
    status = assign(&sample);
    t->searches = sample.searches;
    if (status == INFEASIBLE) { /* of the sample: says nothing about the whole */
        for (int64_t k = 0; k < m; k++)
            price[k] = 0.0;
        return SOLVED;
    }
    for (int64_t k = 0; k < m; k++)
        price[k] = sample.price[k];
    return status;
}

/* Solves max sum of values subject to slots, exactly in double arithmetic up to rounding.
 *
 * value (n, m) with -inf for forbidden pairs, outside (n,) value of staying unassigned with -inf where an agent must be
 * served, slots (m,) >= 0; no NaN. Writes choice (n,), -1 for unassigned, and the smallest supporting prices (m,).
 * Returns one of the codes above; the outputs are complete only with SOLVED.
 */
int solver_transport(int64_t n, int64_t m, const double *value, const double *outside, const int64_t *slots,
                     double until, int64_t *choice, double *prices)
{
    if (n < 1 || m < 1 || n > INT32_MAX - 1 || m > 32767 || !value || !outside || !slots || !choice || !prices)
        return BAD_INPUT;
    for (int64_t k = 0; k < m; k++)
        if (slots[k] < 0)
            return BAD_INPUT;
    size_t nodes = (size_t)m + 1, levels = 1;
    for (int64_t size = n; size > 0; size /= SAMPLE_DIVISOR)
        levels++;
    Transport t = {.n = n, .m = m, .width = m, .value = value, .outside = outside, .row = NULL, .slots = slots,
                   .until = until, .searches = 0};
    int64_t *row = malloc(sizeof(int64_t) * (size_t)n);
    int64_t *shares = malloc(sizeof(int64_t) * (size_t)m * levels);
    double *start = calloc((size_t)m, sizeof(double));
    t.load = malloc(sizeof(int64_t) * nodes);
    t.price = calloc(nodes, sizeof(double));
    t.loss = malloc(sizeof(double) * nodes * nodes);
    t.mover = malloc(sizeof(int32_t) * nodes * nodes);
    t.at = malloc(sizeof(int32_t) * (size_t)n);
    t.next = malloc(sizeof(int32_t) * (size_t)n);
    t.prev = malloc(sizeof(int32_t) * (size_t)n);
    t.head = malloc(sizeof(int32_t) * nodes);
    t.dist = malloc(sizeof(double) * nodes);
    t.from = malloc(sizeof(int32_t) * nodes);
    t.scanned = malloc(sizeof(int32_t) * nodes);
    t.done = malloc(nodes);
    int status = NO_MEMORY;
    if (row && shares && start && t.load && t.price && t.loss && t.mover && t.at && t.next && t.prev && t.head &&
        t.dist && t.from && t.scanned && t.done) {
        status = start_prices(&t, row, shares, start);
        if (status == SOLVED) {
            for (int64_t k = 0; k < m; k++)
                t.price[k] = start[k];
            t.price[m] = 0.0;
            status = assign(&t);
        }
        if (status == SOLVED) {
            smallest_prices(&t);
            for (int64_t i = 0; i < n; i++)
                choice[i] = t.at[i] == m ? -1 : t.at[i];
            for (int64_t k = 0; k < m; k++)
                prices[k] = t.price[k];
        }
    }
    free(row); free(shares); free(start); free(t.load); free(t.price); free(t.loss); free(t.mover); free(t.at);
    free(t.next); free(t.prev); free(t.head); free(t.dist); free(t.from); free(t.scanned); free(t.done);
    return status;
}
