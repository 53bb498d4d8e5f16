/*
 * Prices of capacity by occupancy, and the two heavy steps of the smoothed dual that gives mean prices.
 *
 * The method is described in solver/online/occupancy.py and solver/online/window_prices.py, whose numpy code these
 * functions stand in for. They hold no lock of the interpreter, so that a refresh of prices delays no decision.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { MAX_ITERATIONS = 20, BLOCK = 8 };

static const double MIN_RATE = 1e-12;  /* Least admission rate, as in occupancy.py. */
static const double MIN_SHARE = 1e-12; /* Least service of an agent, in mean service times. */
static const double NEGLIGIBLE = -37.0;  /* Exponent below which a share is 0: it would not change the sum. */

/* Agents worth more than nothing at one model. */
typedef struct {
    int64_t count;
    double *ratio, *value, *service; /* Value a unit of service; weight × value; weight × service. */
} Advantage;

/* What is reused for every model: one number a state. */
typedef struct {
    double *fee, *level, *value, *service, *reward, *threshold;
    int64_t *admitted, *before;
} States;

/* Put every agent into the first states whose thresholds it exceeds; sums of each state by suffix addition. */
static void admit(const Advantage *at, int64_t full, States *s)
{
    memset(s->value, 0, (size_t)full * sizeof(double));
    memset(s->service, 0, (size_t)full * sizeof(double));
    memset(s->admitted, 0, (size_t)full * sizeof(int64_t));
    for (int64_t i = 0; i < at->count; i++) {
        const double ratio = at->ratio[i];
        const double *low = s->threshold;
        int64_t rest = full;
        while (rest > 0) { /* Thresholds ascend: find how many lie below the ratio. */
            const int64_t half = rest / 2;
            const int below = low[half] < ratio;
            low += below ? half + 1 : 0;
            rest = below ? rest - half - 1 : half;
        }
        const int64_t state = low - s->threshold - 1;
        if (state < 0)
            continue;
        s->value[state] += at->value[i];
        s->service[state] += at->service[i];
        s->admitted[state]++;
    }
    for (int64_t k = full - 2; k >= 0; k--) {
        s->value[k] += s->value[k + 1];
        s->service[k] += s->service[k + 1];
        s->admitted[k] += s->admitted[k + 1];
    }
}

/* Stationary distribution of the birth-death process; chance has full + 1 entries. */
static void stationary(const double *births, const double *level, int64_t full, double *chance)
{
    double highest = chance[0] = 0.0, total = 0.0;
    for (int64_t k = 0; k < full; k++) {
        chance[k + 1] = chance[k] + log(births[k] / level[k + 1]);
        if (chance[k + 1] > highest)
            highest = chance[k + 1];
    }
    for (int64_t k = 0; k <= full; k++)
        total += chance[k] = exp(chance[k] - highest);
    for (int64_t k = 0; k <= full; k++)
        chance[k] /= total;
}

/* D of a policy, at least 0: upwards while births outnumber departures, downwards from the last state. */
static void relative_costs(double gain, const double *births, const States *s, int64_t full, double *cost)
{
    int64_t turn = 0;
    while (turn < full && births[turn] > s->level[turn])
        turn++;
    if (turn < 1)
        turn = 1;
    cost[0] = (s->reward[0] - gain) / births[0];
    for (int64_t k = 1; k < turn; k++)
        cost[k] = (s->reward[k] - gain + s->level[k] * cost[k - 1]) / births[k];
    if (turn < full)
        cost[full - 1] = gain / s->level[full];
    for (int64_t k = full - 2; k >= turn; k--)
        cost[k] = (gain - s->reward[k + 1] + births[k + 1] * cost[k + 1]) / s->level[k + 1];
    for (int64_t k = 0; k < full; k++)
        if (!(cost[k] > 0.0))
            cost[k] = 0.0;
}

/* Howard's policy iteration for one model. */
static void iterate(const Advantage *at, double arrivals, int64_t full, States *s, double *cost, double *chance,
                    double *births)
{
    for (int64_t k = 0; k < full; k++)
        s->before[k] = -1;
    for (int pass = 0; pass < MAX_ITERATIONS; pass++) {
        double gain = 0.0;
        for (int64_t k = 0; k < full; k++)
            s->threshold[k] = cost[k] + s->fee[k];
        admit(at, full, s);
        if (memcmp(s->admitted, s->before, (size_t)full * sizeof(int64_t)) == 0)
            break;
        memcpy(s->before, s->admitted, (size_t)full * sizeof(int64_t));
        for (int64_t k = 0; k < full; k++) {
            const double rate = arrivals * s->service[k];
            births[k] = rate > MIN_RATE ? rate : MIN_RATE;
            s->reward[k] = arrivals * (s->value[k] - s->fee[k] * s->service[k]);
        }
        stationary(births, s->level, full, chance);
        for (int64_t k = 0; k < full; k++)
            gain += chance[k] * s->reward[k];
        relative_costs(gain, births, s, full, cost);
        for (int64_t k = 1; k < full; k++)
            if (cost[k] < cost[k - 1])
                cost[k] = cost[k - 1];
    }
}

/* Later agents that one more admission displaces: the same equations with a reward of 1 an admission. */
static void displace(int64_t full, States *s, const double *chance, const double *births, double *displaced)
{
    double gain = 0.0;
    for (int64_t k = 0; k < full; k++)
        gain += chance[k] * (s->reward[k] = births[k]);
    relative_costs(gain, births, s, full, displaced);
    for (int64_t k = 0; k < full; k++)
        if (displaced[k] > 1.0)
            displaced[k] = 1.0;
}

/* Best model of every agent at mean prices, what it is worth, and what the second best is worth. */
static void rank(int64_t n, int64_t m, const double *scores, const double *service, const double *unserved,
                 const double *price, double *highest, double *second, int64_t *best)
{
    for (int64_t i = 0; i < n; i++) {
        double first = -INFINITY, next = -INFINITY;
        int64_t at = 0;
        for (int64_t j = 0; j < m; j++) {
            const double net = scores[i * m + j] - service[i * m + j] * price[j];
            if (net > first) {
                next = first, first = net, at = j;
            } else if (net > next) {
                next = net;
            }
        }
        best[i] = at;
        highest[i] = first > unserved[i] ? first : unserved[i];
        second[i] = next > unserved[i] ? next : unserved[i];
    }
}

/* Collect who is worth something at the models from..to, which share cache lines. */
static void collect(int64_t n, int64_t m, int64_t from, int64_t to, const double *scores, const double *service,
                    const double *weights, const double *mean_s, const double *highest, const double *second,
                    const int64_t *best, Advantage *at)
{
    for (int64_t j = from; j < to; j++)
        at[j - from].count = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = from; j < to; j++) {
            const double value = scores[i * m + j] - (best[i] == j ? second[i] : highest[i]);
            if (!(value > 0.0))
                continue;
            Advantage *here = at + (j - from);
            double share = service[i * m + j] / mean_s[j];
            if (!(share > MIN_SHARE))
                share = MIN_SHARE;
            here->ratio[here->count] = value / share;
            here->value[here->count] = weights[i] * value;
            here->service[here->count++] = weights[i] * share;
        }
}

/*
 * Costs by occupancy of m models, their stationary distributions and admission rates; price becomes the mean price
 * that they imply. Rows have top, top + 1 and top entries; cost is read first. What one more admission displaces is
 * computed where displaced, rows of top, is not null. Returns 0, or 1 without memory.
 */
EXPORT int solver_occupancy(int64_t n, int64_t m, int64_t top, const double *scores, const double *service,
                            const double *weights, const double *unserved, const double *mean_s,
                            const double *arrivals, const int64_t *servers, const int64_t *full, double wait_cost,
                            int64_t rounds, double *cost, double *chance, double *births, double *price,
                            double *displaced)
{
    double *numbers = malloc(((size_t)n * (2 + 3 * BLOCK) + (size_t)(top + 1) * 6) * sizeof(double));
    int64_t *counts = malloc(((size_t)n + 2 * (size_t)top) * sizeof(int64_t));
    if (numbers == NULL || counts == NULL) {
        free(numbers);
        free(counts);
        return 1;
    }
    double *highest = numbers, *second = highest + n, *free_space = second + n;
    Advantage at[BLOCK];
    for (int b = 0; b < BLOCK; b++) {
        at[b].ratio = free_space, at[b].value = free_space + n, at[b].service = free_space + 2 * n;
        free_space += 3 * n;
    }
    States s = {.fee = free_space,
                .level = free_space + (top + 1),
                .value = free_space + 2 * (top + 1),
                .service = free_space + 3 * (top + 1),
                .reward = free_space + 4 * (top + 1),
                .threshold = free_space + 5 * (top + 1),
                .admitted = counts + n,
                .before = counts + n + top};
    for (int64_t round = 0; round < rounds; round++) {
        rank(n, m, scores, service, unserved, price, highest, second, counts);
        for (int64_t from = 0; from < m; from += BLOCK) {
            const int64_t to = from + BLOCK < m ? from + BLOCK : m;
            collect(n, m, from, to, scores, service, weights, mean_s, highest, second, counts, at);
            for (int64_t j = from; j < to; j++) {
                const int64_t states = full[j];
                double *row = cost + j * top, *stay = chance + j * (top + 1), mean = 0.0;
                for (int64_t k = 0; k <= states; k++) {
                    const int64_t waits = k - servers[j] + 1;
                    s.level[k] = (double)(k < servers[j] ? k : servers[j]) / mean_s[j];
                    s.fee[k] = waits > 0 ? wait_cost * (double)waits * (mean_s[j] / (double)servers[j]) : 0.0;
                }
                iterate(at + (j - from), arrivals[j], states, &s, row, stay, births + j * top);
                if (round + 1 == rounds) {
                    if (displaced != NULL)
                        displace(states, &s, stay, births + j * top, displaced + j * top);
                    continue;
                }
                for (int64_t k = 0; k <= states; k++) {
                    const int64_t last = k < states ? k : states - 1;
                    mean += stay[k] * (row[last] + s.fee[last]);
                }
                price[j] = mean / mean_s[j]; /* Read again only by the next round's ranking. */
            }
        }
    }
    for (int64_t j = 0; j < m; j++)
        for (int64_t k = full[j]; k < top; k++)
            cost[j * top + k] = cost[j * top + full[j] - 1];
    free(numbers);
    free(counts);
    return 0;
}

/*
 * Shares of n agents among m models and no model, the softmax of net / temperature with unserved as one more choice; net
 * is overwritten. Worth becomes the smoothed maximum.
 */
EXPORT void solver_shares(int64_t n, int64_t m, double *net, const double *unserved, double temperature,
                          double *worth)
{
    for (int64_t i = 0; i < n; i++) {
        double *row = net + i * m, best = unserved[i], total;
        for (int64_t j = 0; j < m; j++)
            if (row[j] > best)
                best = row[j];
        total = exp((unserved[i] - best) / temperature);
        for (int64_t j = 0; j < m; j++) {
            const double power = (row[j] - best) / temperature;
            total += row[j] = power > NEGLIGIBLE ? exp(power) : 0.0;
        }
        for (int64_t j = 0; j < m; j++)
            row[j] /= total;
        worth[i] = best + temperature * log(total);
    }
}

/*
 * Write -sum_i weight_i uses_i uses_i' into a (k, k) matrix. Entries of a row below a share of its largest count as 0,
 * which makes rows short where models are many. Returns 0, or 1 without memory.
 */
EXPORT int solver_gram(int64_t n, int64_t k, const double *uses, const double *weights, double share,
                       double *matrix)
{
    int64_t *where = malloc((size_t)k * sizeof(int64_t));
    if (where == NULL)
        return 1;
    memset(matrix, 0, (size_t)k * (size_t)k * sizeof(double));
    for (int64_t i = 0; i < n; i++) {
        const double *row = uses + i * k;
        double least = 0.0;
        int64_t count = 0;
        for (int64_t j = 0; j < k; j++)
            if (row[j] > least)
                least = row[j];
        least *= share;
        for (int64_t j = 0; j < k; j++)
            if (row[j] > least)
                where[count++] = j;
        for (int64_t a = 0; a < count; a++) {
            const double scaled = weights[i] * row[where[a]];
            double *to = matrix + where[a] * k;
            for (int64_t b = a; b < count; b++)
                to[where[b]] -= scaled * row[where[b]];
        }
    }
    for (int64_t a = 0; a < k; a++)
        for (int64_t b = 0; b < a; b++)
            matrix[a * k + b] = matrix[b * k + a];
    free(where);
    return 0;
}
