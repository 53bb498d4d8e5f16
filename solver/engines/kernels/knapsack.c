/* Knapsacks of the Lagrangian engine: each column takes the agents worth most to it within its capacity.
 *
 * The twin of solver/engines/lagrangian/knapsacks.py. Profits are whole numbers (multiplier less loss, in fixed point), so
 * that optima are exact and do not depend on the order of additions. Dynamic programming over the capacity, one row of
 * optima per agent of positive profit; O(agents x capacity) per column, vectorised along the capacity.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(NO_CLONES)
#define CLONED __attribute__((target_clones("avx2", "default")))
#else
#define CLONED
#endif

/* Adds one agent: best[x] = max(before[x], before[x - weight] + profit) for all capacities x. */
CLONED static void add_agent(const int32_t *restrict before, int32_t *restrict best, int64_t weight, int64_t capacity,
                             int32_t profit)
{
    memcpy(best, before, (size_t)weight * sizeof *best);
    for (int64_t x = weight; x <= capacity; x++) {
        int32_t with = before[x - weight] + profit;
        best[x] = with > before[x] ? with : before[x];
    }
}

/* Largest sum of two optima that share a capacity: max over x of first[x] + second[room - x]. */
CLONED static int32_t best_split(const int32_t *restrict first, const int32_t *restrict second, int64_t room)
{
    int32_t best = 0;
    for (int64_t x = 0; x <= room; x++) {
        int32_t sum = first[x] + second[room - x];
        best = sum > best ? sum : best;
    }
    return best;
}

/* Lists the agents of positive profit that fit, and returns how many they are. */
static int64_t list_agents(int64_t n, const int32_t *loss, const int32_t *weight, const uint8_t *open, int64_t capacity,
                           const int32_t *multiplier, int32_t *list, int64_t *total)
{
    int64_t count = 0;
    *total = 0;
    for (int64_t i = 0; i < n; i++)
        if (open[i] && multiplier[i] > loss[i] && weight[i] <= capacity) {
            list[count++] = (int32_t)i;
            *total += weight[i];
        }
    return count;
}

/* Whether sums of profits keep within 32 bits; losses are at most 2^30, and no loss is negative. */
static int is_moderate(int64_t n, const int32_t *multiplier)
{
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++)
        total += multiplier[i] < 0 ? -(int64_t)multiplier[i] : multiplier[i];
    return total <= INT64_C(1) << 30;
}

/* Fills `value` (c,) with the largest total profits and `chosen` (c, n) with who is taken.
 * `loss`, `weight` (c, n), `open` (c, n); `rows` is scratch of (n + 1) * (largest capacity + 1), `list` of n.
 * Returns 0, or 1 where multipliers are too large. */
int solver_knapsacks(int64_t n, int64_t columns, const int32_t *loss, const int32_t *weight, const uint8_t *open,
                      const int64_t *capacity, const int32_t *multiplier, int64_t *value, uint8_t *chosen, int32_t *rows,
                      int32_t *list)
{
    if (!is_moderate(n, multiplier))
        return 1;
    memset(chosen, 0, (size_t)(columns * n));
    for (int64_t j = 0; j < columns; j++, loss += n, weight += n, open += n, chosen += n) {
        int64_t room = capacity[j], wide = room + 1, total;
        value[j] = 0;
        if (room < 0)
            continue;
        int64_t count = list_agents(n, loss, weight, open, room, multiplier, list, &total);
        if (total <= room) {
            for (int64_t q = 0; q < count; q++) {
                chosen[list[q]] = 1;
                value[j] += multiplier[list[q]] - loss[list[q]];
            }
            continue;
        }
        memset(rows, 0, (size_t)wide * sizeof *rows);
        for (int64_t q = 0; q < count; q++) {
            int64_t i = list[q];
            add_agent(rows + q * wide, rows + (q + 1) * wide, weight[i], room, multiplier[i] - loss[i]);
        }
        value[j] = rows[count * wide + room];
        int64_t left = room;
        for (int64_t q = count; q-- > 0;)
            if (rows[(q + 1) * wide + left] > rows[q * wide + left]) {
                chosen[list[q]] = 1;
                left -= weight[list[q]];
            }
    }
    return 0;
}

/* Fills `lost` (c, n) with what a column's profit falls by when it must take an agent; -1 where it cannot.
 * `rows` and `back` are scratch of (n + 1) * (largest capacity + 1) each.
 * Returns 0, or 1 where multipliers are too large. */
int solver_knapsacks_forced(int64_t n, int64_t columns, const int32_t *loss, const int32_t *weight, const uint8_t *open,
                             const int64_t *capacity, const int32_t *multiplier, int32_t *lost, int32_t *rows,
                             int32_t *back, int32_t *list)
{
    if (!is_moderate(n, multiplier))
        return 1;
    for (int64_t j = 0; j < columns; j++, loss += n, weight += n, open += n, lost += n) {
        int64_t room = capacity[j], wide = room + 1, total, q = 0;
        for (int64_t i = 0; i < n; i++)
            lost[i] = -1;
        if (room < 0)
            continue;
        int64_t count = list_agents(n, loss, weight, open, room, multiplier, list, &total);
        memset(rows, 0, (size_t)wide * sizeof *rows);
        memset(back + count * wide, 0, (size_t)wide * sizeof *back);
        for (q = 0; q < count; q++) {
            int64_t i = list[q];
            add_agent(rows + q * wide, rows + (q + 1) * wide, weight[i], room, multiplier[i] - loss[i]);
        }
        for (q = count; q-- > 0;) {
            int64_t i = list[q];
            add_agent(back + (q + 1) * wide, back + q * wide, weight[i], room, multiplier[i] - loss[i]);
        }
        int32_t most = rows[count * wide + room];
        q = 0;
        for (int64_t i = 0; i < n; i++) {
            if (!open[i] || weight[i] > room)
                continue;
            int32_t profit = multiplier[i] - loss[i];
            int64_t left = room - weight[i];
            if (q < count && list[q] == i) {
                lost[i] = most - profit - best_split(rows + q * wide, back + (q + 1) * wide, left);
                q++;
            } else {
                lost[i] = most - profit - rows[count * wide + left];
            }
        }
    }
    return 0;
}
