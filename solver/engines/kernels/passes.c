/* Full passes over the rows of a score matrix, for float32 and float64 scores.
 *
 * Every function works on rows [start, stop) of `score`, (n, m) in C order, or of the rows that `among` names. All
 * arithmetic is in double and in the order of the numpy twins, so results agree with them bit for bit. Maxima are kept
 * in LANES independent accumulators, which the compiler turns into vector instructions.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(NO_CLONES)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

#define LANES 8
#define ONE (1ULL << 32)
#define AHEAD 6 /* rows of a sample are far apart: memory is asked for them before they are needed */
#define LINE 64 /* bytes of a cache line */

#if defined(__GNUC__) && !defined(__clang__)
#define INDEPENDENT _Pragma("GCC ivdep") /* the arrays of a row do not overlap */
#else
#define INDEPENDENT
#endif

#if defined(__GNUC__)
#define FETCH(from, size)                                                                                              \
    for (size_t byte = 0; byte < (size); byte += LINE)                                                                 \
        __builtin_prefetch((const char *)(from) + byte)
#else
#define FETCH(from, size) ((void)0)
#endif

/* Writes net = score - low and returns the largest net - side of a row, or the largest net unless `sided`. */
#define DEFINE_PASSES(SUFFIX, REAL)                                                                                    \
    static inline __attribute__((always_inline)) double price_row_##SUFFIX(                                            \
        const REAL *restrict x, int64_t m, const double *restrict low, const double *restrict side, const int sided,   \
        double *restrict net)                                                                                          \
    {                                                                                                                  \
        double top[LANES], best = -INFINITY;                                                                           \
        int64_t j = 0;                                                                                                 \
        for (int l = 0; l < LANES; l++)                                                                                \
            top[l] = -INFINITY;                                                                                        \
        for (; j + LANES <= m; j += LANES) {                                                                           \
            INDEPENDENT                                                                                                \
            for (int l = 0; l < LANES; l++) {                                                                          \
                double v = (double)x[j + l] - low[j + l];                                                              \
                net[j + l] = v;                                                                                        \
                double w = sided ? v - side[j + l] : v;                                                                \
                top[l] = w > top[l] ? w : top[l];                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (; j < m; j++) {                                                                                           \
            net[j] = (double)x[j] - low[j];                                                                            \
            double w = sided ? net[j] - side[j] : net[j];                                                              \
            best = w > best ? w : best;                                                                                \
        }                                                                                                              \
        for (int l = 0; l < LANES; l++)                                                                                \
            best = top[l] > best ? top[l] : best;                                                                      \
        return best;                                                                                                   \
    }                                                                                                                  \
                                                                                                                       \
    /* For prices anywhere between low and low + side: the choice of every agent with one possible choice, and the     \
     * arcs of all others. Writes choice[i] for rows i in [start, stop), m for unassigned, and row and model of the    \
     * contested arcs (room for (stop - start) * (m + 1)); returns their number. `net` is scratch of m doubles. */     \
    CLONES int64_t solver_reduce_##SUFFIX(const REAL *restrict score, int64_t m, const int64_t *restrict among,        \
                                          const double *restrict outside, const double *restrict low,                  \
                                          const double *restrict side, int64_t start, int64_t stop,                    \
                                          int64_t *restrict choice, int64_t *restrict row, int64_t *restrict model,    \
                                          double *restrict net)                                                        \
    {                                                                                                                  \
        int64_t found = 0;                                                                                             \
        for (int64_t i = start; i < stop; i++) {                                                                       \
            if (among && i + AHEAD < stop)                                                                             \
                FETCH(score + among[i + AHEAD] * m, (size_t)m * sizeof(REAL));                                         \
            double floor = price_row_##SUFFIX(score + (among ? among[i] : i) * m, m, low, side, 1, net);               \
            int stays = outside && outside[i] >= floor;                                                                \
            if (outside && outside[i] > floor)                                                                         \
                floor = outside[i];                                                                                    \
            uint64_t possible = 0; /* the number of possible models in units of ONE, and the sum of their indices */   \
            for (int64_t j = 0; j < m; j++)                                                                            \
                possible += -(uint64_t)(net[j] >= floor) & (ONE + (uint64_t)j);                                        \
            int is_single = possible / ONE == 1; /* a sum may carry, but never make two of them look like one */       \
            choice[i] = stays ? m : is_single ? (int64_t)(possible % ONE) : 0;                                         \
            if (stays ? possible == 0 : is_single)                                                                     \
                continue;                                                                                              \
            for (int64_t j = 0; j < m; j++)                                                                            \
                if (net[j] >= floor) {                                                                                 \
                    row[found] = i;                                                                                    \
                    model[found++] = j;                                                                                \
                }                                                                                                      \
            if (stays) {                                                                                               \
                row[found] = i;                                                                                        \
                model[found++] = m;                                                                                    \
            }                                                                                                          \
        }                                                                                                              \
        return found;                                                                                                  \
    }                                                                                                                  \
                                                                                                                       \
    /* The first best model of every agent at some prices, and the score there. */                                     \
    CLONES void solver_best_##SUFFIX(const REAL *restrict score, int64_t m, const double *restrict prices,             \
                                     int64_t start, int64_t stop, int64_t *restrict model, double *restrict value,     \
                                     double *restrict net)                                                             \
    {                                                                                                                  \
        for (int64_t i = start; i < stop; i++) {                                                                       \
            const REAL *restrict x = score + i * m;                                                                    \
            double best = price_row_##SUFFIX(x, m, prices, NULL, 0, net);                                              \
            int64_t first = m - 1;                                                                                     \
            for (int64_t j = 0; j < m; j++) {                                                                          \
                int64_t candidate = net[j] == best ? j : m - 1;                                                        \
                first = candidate < first ? candidate : first;                                                         \
            }                                                                                                          \
            model[i] = first;                                                                                          \
            value[i] = (double)x[first];                                                                               \
        }                                                                                                              \
    }

DEFINE_PASSES(f32, float)
DEFINE_PASSES(f64, double)
