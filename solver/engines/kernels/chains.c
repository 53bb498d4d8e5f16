/* Compound moves for the generalized assignment problem: a beam search over chains of ejections.
 *
 * The compiled twin of EjectionChains in solver/engines/lagrangian/ejection_chains.py: a move takes an agent from its column to
 * another, ejects an agent from there, and so on, until the last agent is accepted (a path) or lands where the first one
 * left (a cycle). Partial moves are ranked by what they would cost at the dual prices; `width` of them are kept at every
 * level. Compare M. Yagiura, T. Ibaraki, F. Glover, INFORMS J. Comput. 16 (2004).
 *
 * Loads, losses and penalties are float32 and may drift by rounding; the caller recomputes loads at every local optimum
 * and checks feasibility exactly before it believes it.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { LOCAL_OPTIMUM = 0, BETTER = 1, OUT_OF_TIME = 2, MEMBERS_FULL = 4, BAD_INPUT = 5 };

#define MAX_DEPTH 8
#define NEVER 1e8f
#define INLINE inline __attribute__((always_inline))

typedef struct {
    float value;
    int32_t length;
    int32_t agent[MAX_DEPTH], target[MAX_DEPTH];
} Move;

typedef struct {
    float spent;  /* loss so far, without the penalty of the open end */
    float relief; /* change of the first column's penalty */
    float credit; /* relief less the price of what left: the constant part of the rank */
    int32_t length, origin;
    int32_t agent[MAX_DEPTH], target[MAX_DEPTH];
} Partial;

typedef struct {
    float key;   /* rank: cost at the dual prices, less noise */
    float spent; /* as in Partial */
    int32_t parent, agent, target;
} Candidate;

typedef struct {
    int64_t agents, columns, resources, near, models; /* models == columns unless agents may stay unassigned */
    int64_t slots;                                    /* places for members of a column */
    int64_t width, depth, most;                       /* beam, longest chain, moves kept */
    int64_t noise_size;
    const float *loss;        /* (n + 1, c) */
    const float *demand;      /* (r, n + 1, c) */
    const int64_t *near_of;   /* (n + 1, near) columns */
    const float *near_loss;   /* (n + 1, near) */
    const float *near_key;    /* (n + 1, near) loss plus price of the demand */
    const float *near_demand; /* (r, n + 1, near) */
    const float *price, *room, *penalty; /* (r, c) */
    const float *noise;       /* (noise_size,) */
    const double *exact_loss; /* (c, n) */
    float *use;               /* (r, c) */
    int64_t *column;          /* (n + 1,) */
    int64_t *members;         /* (c, slots), agents; n pads */
    int64_t *size;            /* (c,) */
    /* scratch */
    float *over, *held;                           /* (r, c), (c,) */
    float *accept;                                /* (n, near) */
    float *own_loss, *cheapest_exit, *cheapest_accept, *cheapest_loss, *relief, *credit; /* (n,) */
    float *own_demand;                            /* (r, n) */
    Partial *beam, *next;                         /* (width,) each */
    Candidate *candidates;                        /* (width,) a heap, worst on top */
    Move *moves;                                  /* (most,) */
    uint64_t random;
    float improvement, most_noise;
    uint8_t *touched; /* (c,) scratch */
} Chains;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static uint64_t draw(Chains *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

/* Keeps the `most` moves of least value as a heap with the worst on top. */
static int64_t keep_move(Chains *s, int64_t count, const Move *move)
{
    Move *heap = s->moves;
    int64_t at;
    if (count < s->most) {
        at = count++;
        while (at > 0 && heap[(at - 1) / 2].value < move->value) {
            heap[at] = heap[(at - 1) / 2];
            at = (at - 1) / 2;
        }
    } else {
        if (move->value >= heap[0].value)
            return count;
        at = 0;
        for (;;) {
            int64_t child = 2 * at + 1;
            if (child >= count)
                break;
            if (child + 1 < count && heap[child + 1].value > heap[child].value)
                child++;
            if (heap[child].value <= move->value)
                break;
            heap[at] = heap[child];
            at = child;
        }
    }
    heap[at] = *move;
    return count;
}

/* Keeps the `width` candidates of least key. */
static int64_t keep_candidate(Candidate *heap, int64_t count, int64_t width, Candidate one)
{
    int64_t at;
    if (count < width) {
        at = count++;
        while (at > 0 && heap[(at - 1) / 2].key < one.key) {
            heap[at] = heap[(at - 1) / 2];
            at = (at - 1) / 2;
        }
    } else {
        if (one.key >= heap[0].key)
            return count;
        at = 0;
        for (;;) {
            int64_t child = 2 * at + 1;
            if (child >= width)
                break;
            if (child + 1 < width && heap[child + 1].key > heap[child].key)
                child++;
            if (heap[child].key <= one.key)
                break;
            heap[at] = heap[child];
            at = child;
        }
    }
    heap[at] = one;
    return count;
}

static inline float positive(float x)
{
    return x > 0.0f ? x : 0.0f;
}

/* Tabulates what depends on the loads alone. */
static INLINE void prepare(Chains *s, const int64_t resources)
{
    int64_t n = s->agents, c = s->columns, near = s->near;
    for (int64_t j = 0; j < c; j++)
        s->held[j] = 0.0f;
    for (int64_t k = 0; k < resources; k++)
        for (int64_t j = 0; j < c; j++) {
            float over = s->use[k * c + j] - s->room[k * c + j];
            s->over[k * c + j] = over;
            s->held[j] += s->penalty[k * c + j] * positive(over);
        }
    for (int64_t i = 0; i < n; i++) {
        int64_t home = s->column[i];
        const int64_t *to = s->near_of + i * near;
        s->own_loss[i] = s->loss[i * c + home];
        float least_exit = NEVER, least_accept = NEVER, least_loss = NEVER;
        for (int64_t t = 0; t < near; t++) {
            int64_t j = to[t];
            float value = s->near_loss[i * near + t] - s->held[j];
            for (int64_t k = 0; k < resources; k++)
                value += s->penalty[k * c + j] *
                         positive(s->over[k * c + j] + s->near_demand[(k * (n + 1) + i) * near + t]);
            s->accept[i * near + t] = value;
            if (j == home)
                continue;
            least_accept = value < least_accept ? value : least_accept;
            float loss = s->near_loss[i * near + t];
            least_loss = loss < least_loss ? loss : least_loss;
            float key = s->near_key[i * near + t];
            least_exit = key < least_exit ? key : least_exit;
        }
        s->cheapest_exit[i] = least_exit;
        s->cheapest_accept[i] = least_accept;
        s->cheapest_loss[i] = least_loss;
        for (int64_t k = 0; k < resources; k++)
            s->own_demand[k * n + i] = s->demand[(k * (n + 1) + i) * c + home];
    }
}

/* First level: every agent to every near column. */
static INLINE int64_t first_level(Chains *s, int64_t *kept, const int64_t resources)
{
    int64_t n = s->agents, c = s->columns, near = s->near, found = 0, count = 0, width = s->width;
    int64_t shift = (int64_t)(draw(s) % (uint64_t)s->noise_size);
    Candidate *heap = s->candidates;
    for (int64_t i = 0; i < n; i++) {
        int64_t home = s->column[i];
        float relief = -s->held[home], price = 0.0f;
        for (int64_t k = 0; k < resources; k++) {
            float left = s->over[k * c + home] - s->own_demand[k * n + i];
            relief += s->penalty[k * c + home] * positive(left);
            price += s->price[k * c + home] * s->own_demand[k * n + i];
        }
        float gain = relief - s->own_loss[i], base = gain - price;
        s->relief[i] = relief;
        s->credit[i] = relief - price;
        int explore = count < width || base + s->cheapest_exit[i] - s->most_noise < heap[0].key;
        if (!explore && gain + s->cheapest_accept[i] >= s->improvement)
            continue;
        for (int64_t t = 0; t < near; t++) {
            int64_t j = s->near_of[i * near + t];
            if (j == home)
                continue;
            float value = s->accept[i * near + t] + gain;
            if (value < s->improvement) {
                Move move = {.value = value, .length = 1};
                move.agent[0] = (int32_t)i;
                move.target[0] = (int32_t)j;
                found = keep_move(s, found, &move);
            }
            if (!explore || j == s->models)
                continue;
            shift = shift + 1 < s->noise_size ? shift + 1 : 0;
            Candidate one = {.key = s->near_key[i * near + t] + base - s->noise[shift]};
            if (one.key >= NEVER || (count == width && one.key >= heap[0].key))
                continue;
            one.spent = s->near_loss[i * near + t] - s->own_loss[i];
            one.parent = -1;
            one.agent = (int32_t)i;
            one.target = (int32_t)j;
            count = keep_candidate(heap, count, width, one);
        }
    }
    for (int64_t w = 0; w < count; w++) {
        Partial *p = s->beam + w;
        p->spent = heap[w].spent;
        p->relief = s->relief[heap[w].agent];
        p->credit = s->credit[heap[w].agent];
        p->length = 1;
        p->origin = (int32_t)s->column[heap[w].agent];
        p->agent[0] = heap[w].agent;
        p->target[0] = heap[w].target;
    }
    *kept = count;
    return found;
}

/* Next level: every member of every open end is ejected to every near column. */
static INLINE int64_t extend(Chains *s, int64_t *kept, int64_t found, int last, const int64_t resources)
{
    int64_t n = s->agents, c = s->columns, near = s->near, count = 0, width = s->width;
    Candidate *heap = s->candidates;
    int64_t shift = (int64_t)(draw(s) % (uint64_t)s->noise_size);
    for (int64_t b = 0; b < *kept; b++) {
        const Partial *p = s->beam + b;
        int64_t open = p->target[p->length - 1], origin = p->origin, mover = p->agent[p->length - 1];
        const int64_t *member = s->members + open * s->slots;
        float spent = p->spent - s->held[open], credit = p->credit, relief = p->relief;
        for (int64_t q = 0; q < s->size[open]; q++) {
            int64_t e = member[q];
            float base = spent - s->own_loss[e];
            for (int64_t k = 0; k < resources; k++) {
                float load = s->over[k * c + open] + s->demand[(k * (n + 1) + mover) * c + open];
                base += s->penalty[k * c + open] * positive(load - s->own_demand[k * n + e]);
            }
            float rank = base + credit;
            int explore = !last && (count < width || rank + s->cheapest_exit[e] - s->most_noise < heap[0].key);
            int accepts = base + relief + s->cheapest_accept[e] < s->improvement;
            /* Coming back to the first column may be cheaper than being accepted there: its overload has shrunk. */
            int returns = base + s->cheapest_loss[e] - s->held[origin] < s->improvement;
            if (!explore && !accepts && !returns)
                continue;
            for (int64_t t = 0; t < near; t++) {
                int64_t j = s->near_of[e * near + t];
                if (j == open)
                    continue;
                int barred = 0;
                for (int32_t l = 0; l < p->length - 1; l++)
                    barred |= p->target[l] == j;
                if (barred)
                    continue;
                float value;
                if (j == origin) { /* the first column gets one agent back for the one it lost */
                    value = base + s->near_loss[e * near + t] - s->held[j];
                    for (int64_t k = 0; k < resources; k++) {
                        float left = s->own_demand[k * n + p->agent[0]];
                        value += s->penalty[k * c + j] *
                                 positive(s->over[k * c + j] + s->near_demand[(k * (n + 1) + e) * near + t] - left);
                    }
                } else {
                    value = s->accept[e * near + t] + base + relief;
                }
                if (value < s->improvement) {
                    Move move = {.value = value, .length = p->length + 1};
                    memcpy(move.agent, p->agent, sizeof move.agent);
                    memcpy(move.target, p->target, sizeof move.target);
                    move.agent[p->length] = (int32_t)e;
                    move.target[p->length] = (int32_t)j;
                    found = keep_move(s, found, &move);
                }
                if (!explore || j == origin || j == s->models)
                    continue;
                shift = shift + 1 < s->noise_size ? shift + 1 : 0;
                Candidate one = {.key = s->near_key[e * near + t] + rank - s->noise[shift]};
                if (one.key >= NEVER || (count == width && one.key >= heap[0].key))
                    continue;
                one.spent = base + s->near_loss[e * near + t];
                one.parent = (int32_t)b;
                one.agent = (int32_t)e;
                one.target = (int32_t)j;
                count = keep_candidate(heap, count, width, one);
            }
        }
    }
    for (int64_t w = 0; w < count; w++) {
        Partial *new = s->next + w;
        *new = s->beam[heap[w].parent];
        new->spent = heap[w].spent;
        new->agent[new->length] = heap[w].agent;
        new->target[new->length] = heap[w].target;
        new->length++;
    }
    Partial *beam = s->beam;
    s->beam = s->next;
    s->next = beam;
    *kept = count;
    return found;
}

static INLINE int64_t search(Chains *s, const int64_t resources)
{
    int64_t kept;
    prepare(s, resources);
    int64_t found = first_level(s, &kept, resources);
    for (int64_t level = 2; level <= s->depth && level <= MAX_DEPTH && kept > 0; level++)
        found = extend(s, &kept, found, level == s->depth || level == MAX_DEPTH, resources);
    return found;
}

static int64_t find_moves(Chains *s)
{
    int64_t found = s->resources == 1 ? search(s, 1) : search(s, s->resources);
    /* ascending by value; insertion sort of a few dozen */
    for (int64_t a = 1; a < found; a++) {
        Move move = s->moves[a];
        int64_t b = a;
        for (; b > 0 && s->moves[b - 1].value > move.value; b--)
            s->moves[b] = s->moves[b - 1];
        s->moves[b] = move;
    }
    return found;
}

static void apply(Chains *s, const Move *move)
{
    int64_t n = s->agents, c = s->columns;
    for (int32_t l = 0; l < move->length; l++) {
        int64_t i = move->agent[l], to = move->target[l], home = s->column[i];
        if (home != s->models) {
            int64_t *member = s->members + home * s->slots, last = --s->size[home];
            for (int64_t q = 0; q <= last; q++)
                if (member[q] == i) {
                    member[q] = member[last];
                    member[last] = n;
                    break;
                }
        }
        if (to != s->models)
            s->members[to * s->slots + s->size[to]++] = i;
        s->column[i] = to;
        for (int64_t k = 0; k < s->resources; k++) {
            s->use[k * c + home] -= s->demand[(k * (n + 1) + i) * c + home];
            s->use[k * c + to] += s->demand[(k * (n + 1) + i) * c + to];
        }
    }
}

/* Whether a chain leaves every list of members with a place to spare. */
static int has_places(const Chains *s, const Move *move)
{
    for (int32_t l = 0; l < move->length; l++)
        if (move->target[l] != s->models && s->size[move->target[l]] + 2 >= s->slots)
            return 0;
    return 1;
}

static int within(const Chains *s)
{
    for (int64_t e = 0; e < s->resources * s->columns; e++)
        if (s->use[e] > s->room[e])
            return 0;
    return 1;
}

/* Whether columns are columns, and members and sizes say the same as `column`: every index that is used stays within. */
static int is_consistent(Chains *s)
{
    int64_t n = s->agents, c = s->columns, listed = 0, served = 0;
    if (n < 1 || c < 1 || n > INT32_MAX - 1 || c > INT32_MAX - 1 || s->resources < 1 || s->near < 1 || s->slots < 1 ||
        s->width < 1 || s->depth < 1 || s->most < 1 || s->noise_size < 1 || s->models < 1 || s->models > c)
        return 0;
    for (int64_t e = 0; e < n * s->near; e++)
        if (s->near_of[e] < 0 || s->near_of[e] >= c)
            return 0;
    float *seen = s->own_loss; /* free between two steps */
    for (int64_t i = 0; i < n; i++) {
        if (s->column[i] < 0 || s->column[i] >= c)
            return 0;
        served += s->column[i] != s->models;
        seen[i] = 0.0f;
    }
    for (int64_t j = 0; j < c; j++) {
        if (s->size[j] < 0 || s->size[j] > s->slots || (j == s->models && s->size[j] != 0))
            return 0;
        for (int64_t q = 0; q < s->size[j]; q++) {
            int64_t i = s->members[j * s->slots + q];
            if (i < 0 || i >= n || s->column[i] != j || seen[i] != 0.0f)
                return 0;
            seen[i] = 1.0f;
        }
        listed += s->size[j];
    }
    return listed == served;
}

/* Finds improving moves without making any; returns how many stand in `moves`, ascending by value, or -1 for an assignment
 * that contradicts itself. */
int64_t solver_chains_find(Chains *s)
{
    return is_consistent(s) ? find_moves(s) : -1;
}

/* Makes the best move again and again; while nothing within all capacities has been met, also every other move that
 * touches no column of a better one. Stops at a local optimum, when the clock passes `until`, or when an assignment within
 * all capacities loses less than `local`, whose loss is then written there. Adds the steps made to `steps`. */
int solver_chains_improve(Chains *s, int *crossed, double *local, double tolerance, double until, int64_t *steps)
{
    int64_t n = s->agents, c = s->columns;
    if (!is_consistent(s))
        return BAD_INPUT;
    for (;;) {
        if (!(seconds() <= until))
            return OUT_OF_TIME;
        int64_t found = find_moves(s);
        (*steps)++;
        if (found == 0)
            return LOCAL_OPTIMUM;
        if (!has_places(s, s->moves))
            return MEMBERS_FULL;
        uint8_t *touched = s->touched;
        memset(touched, 0, (size_t)c);
        for (int64_t f = 0; f < found; f++) {
            const Move *move = s->moves + f;
            int free = has_places(s, move);
            for (int32_t l = 0; l < move->length; l++)
                free &= !touched[move->target[l]] && !touched[s->column[move->agent[l]]];
            if (!free)
                continue;
            for (int32_t l = 0; l < move->length; l++) {
                touched[move->target[l]] = 1;
                touched[s->column[move->agent[l]]] = 1;
            }
            apply(s, move);
            if (*crossed)
                break;
        }
        if (!within(s))
            continue;
        *crossed = 1;
        double total = 0.0;
        for (int64_t i = 0; i < n; i++)
            total += s->exact_loss[s->column[i] * n + i];
        if (total < *local - tolerance * total) {
            *local = total;
            return BETTER;
        }
    }
}
