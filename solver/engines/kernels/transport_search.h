/* The search of transport.c for one type of score and for one or several units per row. Included there once for each:
 * REAL is the type of a score, SEVERAL whether rows have several units, NAME(f) the name of this variant of f. */

static inline const REAL *NAME(row_of)(const Transport *t, int64_t i)
{
    return (const REAL *)t->value + agent_of(t, i) * t->m;
}

static inline double NAME(value_at)(const Transport *t, int64_t i, int64_t node)
{
    return node == t->m ? outside_of(t, i) : (double)NAME(row_of)(t, i)[node];
}

/* Where a row stands in the list of a node. */
static inline int64_t NAME(member)(const Transport *t, int64_t i, int64_t node)
{
#if SEVERAL
    return i * (t->m + 1) + node;
#else
    (void)t, (void)node;
    return i;
#endif
}

/* Units of a row that could still be added to a node. */
static inline int64_t NAME(addable)(const Transport *t, int64_t i, int64_t node)
{
#if SEVERAL
    return node == t->m ? INT64_MAX : width_of(t, i) - t->units[i * (t->m + 1) + node];
#else
    (void)t, (void)i, (void)node;
    return 1;
#endif
}

static inline int64_t NAME(units_at)(const Transport *t, int64_t i, int64_t node)
{
#if SEVERAL
    return t->units[i * (t->m + 1) + node];
#else
    return t->at[i] == node;
#endif
}

/* Puts units of a row on a node and lowers the losses of the node's exchanges where this row is the cheapest mover. */
static void NAME(join)(Transport *t, int64_t i, int64_t node, int64_t amount)
{
    int64_t m = t->m;
    const REAL *value = NAME(row_of)(t, i);
    double own = NAME(value_at)(t, i, node);
    t->load[node] += amount;
    price_supply(t, node);
#if SEVERAL
    int64_t *units = t->units + i * (m + 1);
    units[node] += amount;
    if (units[node] > amount) /* it was here before, and its exchanges are known */
        return;
    for (int64_t k = 0; k < m; k++)
        if (NAME(addable)(t, i, k) > 0)
            offer(t, node, k, own - (double)value[k], i);
#else
    double *loss = t->loss + node * (m + 1);
    int32_t *mover = t->mover + node * (m + 1);
    for (int64_t k = 0; k < m; k++) {
        double w = own - (double)value[k];
        if (w <= loss[k]) {
            loss[k] = w;
            mover[k] = (int32_t)i;
        }
    }
    t->at[i] = (int32_t)node;
#endif
    offer(t, node, m, own - outside_of(t, i), i);
    int64_t place = NAME(member)(t, i, node);
    t->prev[place] = -1;
    t->next[place] = t->head[node];
    if (t->head[node] >= 0)
        t->prev[NAME(member)(t, t->head[node], node)] = (int32_t)i;
    t->head[node] = (int32_t)i;
}

/* Takes units of a row from a node. */
static void NAME(leave)(Transport *t, int64_t i, int64_t node, int64_t amount)
{
    t->load[node] -= amount;
    price_supply(t, node);
#if SEVERAL
    int64_t *units = t->units + i * (t->m + 1);
    int was_full = NAME(addable)(t, i, node) < 1;
    units[node] -= amount;
    if (was_full) { /* the row's other units may move here again */
        double value = NAME(value_at)(t, i, node);
        for (int64_t j = 0; j <= t->m; j++)
            if (units[j] > 0 && j != node)
                offer(t, j, node, NAME(value_at)(t, i, j) - value, i);
    }
    if (units[node] > 0)
        return;
#else
    (void)amount;
#endif
    int64_t place = NAME(member)(t, i, node);
    if (t->prev[place] >= 0)
        t->next[NAME(member)(t, t->prev[place], node)] = t->next[place];
    else
        t->head[node] = t->next[place];
    if (t->next[place] >= 0)
        t->prev[NAME(member)(t, t->next[place], node)] = t->prev[place];
}

/* Recomputes one entry of the exchange matrix whose mover has left. */
static void NAME(refresh)(Transport *t, int64_t j, int64_t k)
{
    double closest = INFINITY;
    int32_t who = -1;
    for (int32_t a = t->head[j]; a >= 0; a = t->next[NAME(member)(t, a, j)]) {
        double w = NAME(value_at)(t, a, j) - NAME(value_at)(t, a, k);
        if (w < closest && NAME(addable)(t, a, k) > 0) {
            closest = w;
            who = a;
        }
    }
    t->loss[j * (t->m + 1) + k] = closest;
    t->mover[j * (t->m + 1) + k] = who;
}

static inline int NAME(is_stale)(const Transport *t, int64_t j, int64_t k)
{
    int32_t who = t->mover[j * (t->m + 1) + k];
    return who >= 0 && (NAME(units_at)(t, who, j) < 1 || NAME(addable)(t, who, k) < 1);
}

/* Moves as many units as possible, at most so many, along a path of `length` exchanges. Exchange s takes a unit of row
 * walker[s] from path[s + 1] to path[s]. Every node gives a unit up before it takes one. */
static int64_t NAME(walk)(Transport *t, int64_t length, int64_t most)
{
    for (int64_t s = 0; s < length; s++) {
        t->walker[s] = t->mover[(int64_t)t->path[s + 1] * (t->m + 1) + t->path[s]];
        most = least(most, NAME(units_at)(t, t->walker[s], t->path[s + 1]));
        most = least(most, NAME(addable)(t, t->walker[s], t->path[s]));
    }
    for (int64_t s = 0; s < length; s++) {
        NAME(leave)(t, t->walker[s], t->path[s + 1], most);
        NAME(join)(t, t->walker[s], t->path[s], most);
    }
    return most;
}

/* Distance of a node from a row that is about to be inserted, whose best value is `best`. */
static inline double NAME(direct)(const Transport *t, int64_t i, int64_t k, double best)
{
    if (k < t->m && (t->slots[k] < 1 || NAME(addable)(t, i, k) < 1))
        return INFINITY;
    return best - (NAME(value_at)(t, i, k) - t->price[k]);
}

/* Inserts at most so many units of a row by a shortest augmenting path; returns how many, 0 if there is no path. */
static int64_t NAME(insert)(Transport *t, int64_t i, int64_t most)
{
    int64_t m = t->m, favourite = m;
    const REAL *value = NAME(row_of)(t, i);
    double best = outside_of(t, i);
    for (int64_t k = 0; k < m; k++) {
        double net = (double)value[k] - t->price[k];
        if (net >= best && t->slots[k] > 0 && NAME(addable)(t, i, k) > 0 &&
            (net > best || (net > -INFINITY && !has_room(t, favourite)))) {
            best = net;
            favourite = k;
        }
    }
    if (best == -INFINITY)
        return 0;
    if (has_room(t, favourite)) {
        int64_t amount = SEVERAL ? least(most, least(room_above(t, favourite), NAME(addable)(t, i, favourite))) : 1;
        NAME(join)(t, i, favourite, amount);
        return amount;
    }
    for (int64_t k = 0; k <= m; k++) {
        t->dist[k] = NAME(direct)(t, i, k, best);
        t->from[k] = -1;
        t->done[k] = 0;
    }
    int64_t count = 0, target = -1;
    double reach = INFINITY;
    for (;;) {
        int64_t j = nearest(t);
        if (j < 0 || t->dist[j] >= reach)
            break;
        if (t->from[j] >= 0 && NAME(is_stale)(t, t->from[j], j)) { /* the distance was a lower bound */
            NAME(refresh)(t, t->from[j], j);
            t->dist[j] = NAME(direct)(t, i, j, best);
            t->from[j] = -1;
            for (int64_t s = 0; s < count; s++)
                shorten(t, j, t->scanned[s], t->dist[t->scanned[s]] + length_of(t, t->scanned[s], j));
            continue;
        }
        double offered = t->dist[j] + fmax(0.0, t->next_cost[j] - t->price[j]);
        if (offered < reach) {
            reach = offered;
            target = j;
            if (offered <= t->dist[j])
                break;
        }
        t->done[j] = 1;
        t->scanned[count++] = (int32_t)j;
        for (int64_t k = 0; k <= m; k++) {
            if (!t->done[k] && (k == m || t->slots[k] > 0))
                shorten(t, k, j, t->dist[j] + length_of(t, j, k));
        }
    }
    if (target < 0)
        return 0;
    for (int64_t s = 0; s < count; s++) {
        int64_t j = t->scanned[s];
        if (t->dist[j] < reach)
            t->price[j] += reach - t->dist[j];
    }
    t->price[target] = fmax(t->price[target], t->next_cost[target]);
    t->price[m] = 0.0;
    int64_t length = 0;
    t->path[0] = (int32_t)target;
    for (; t->from[t->path[length]] >= 0; length++)
        t->path[length + 1] = t->from[t->path[length]];
    int64_t first = t->path[length];
    most = SEVERAL ? least(most, least(room_above(t, target), NAME(addable)(t, i, first))) : 1;
    most = NAME(walk)(t, length, most);
    NAME(join)(t, i, first, most);
    return most;
}

/* Lowers the price of a model with a slot on offer below it: to the cost of that slot, or until units move up and
 * leave a slot idle that is worth no more than it costs. Returns 0 if a floor cannot be filled. */
static int NAME(lower)(Transport *t, int64_t start)
{
    int64_t m = t->m;
    for (int64_t k = 0; k <= m; k++) {
        t->dist[k] = INFINITY;
        t->from[k] = -1;
        t->done[k] = 0;
    }
    t->dist[start] = 0.0;
    int64_t count = 0, target = start;
    double reach = t->price[start] - t->next_cost[start];
    for (;;) {
        int64_t x = nearest(t);
        if (x < 0 || t->dist[x] >= reach)
            break;
        if (t->from[x] >= 0 && NAME(is_stale)(t, x, t->from[x])) {
            NAME(refresh)(t, x, t->from[x]);
            t->dist[x] = INFINITY;
            for (int64_t s = 0; s < count; s++)
                shorten(t, x, t->scanned[s], t->dist[t->scanned[s]] + length_of(t, x, t->scanned[s]));
            continue;
        }
        t->done[x] = 1;
        t->scanned[count++] = (int32_t)x;
        double released = t->dist[x] + fmax(0.0, t->price[x] - t->last_cost[x]);
        if (x != start && released < reach) { /* a slot of x may stay idle once its price is what it costs */
            reach = released;
            target = x;
        }
        for (int64_t k = 0; k <= m; k++) {
            if (!t->done[k] && t->head[k] >= 0)
                shorten(t, k, x, t->dist[x] + length_of(t, k, x));
        }
    }
    if (reach == INFINITY)
        return 0;
    for (int64_t s = 0; s < count; s++) {
        int64_t k = t->scanned[s];
        if (k < m && t->dist[k] < reach)
            t->price[k] = fmax(t->last_cost[k], t->price[k] - (reach - t->dist[k]));
    }
    if (target == start) {
        t->price[start] = t->next_cost[start];
        return 1;
    }
    if (target < m)
        t->price[target] = t->last_cost[target];
    int64_t length = 0, node = target;
    for (; node != start; node = t->from[node])
        length++;
    node = target;
    for (int64_t s = length; s >= 0; s--, node = s >= 0 ? t->from[node] : node)
        t->path[s] = (int32_t)node;
    NAME(walk)(t, length, SEVERAL ? least(room_above(t, start), room_below(t, target)) : 1);
    return 1;
}

/* Assigns all rows of `t`, whose prices hold a start. */
static int NAME(assign)(Transport *t)
{
    int64_t n = t->n, m = t->m;
    for (int64_t e = 0; e < (m + 1) * (m + 1); e++) {
        t->loss[e] = INFINITY;
        t->mover[e] = -1;
    }
    for (int64_t k = 0; k <= m; k++) {
        t->head[k] = -1;
        t->load[k] = 0;
        price_supply(t, k);
    }
    t->price[m] = t->next_cost[m] = t->last_cost[m] = 0.0;
#if SEVERAL
    memset(t->units, 0, sizeof(int64_t) * (size_t)n * (size_t)(m + 1));
#else
    for (int64_t i = 0; i < n; i++)
        t->at[i] = -1;
#endif
    for (int64_t i = 0; i < n; i++)
        for (int64_t left = SEVERAL ? supply_of(t, i) : 1; left > 0;) {
            int status = look(t);
            if (status != SOLVED)
                return status;
            int64_t amount = NAME(insert)(t, i, left);
            if (amount < 1)
                return INFEASIBLE;
            left -= amount;
        }
    for (int64_t k = 0; k < m; k++)
        while (t->price[k] > t->next_cost[k] && t->slots[k] > 0) {
            int status = look(t);
            if (status != SOLVED)
                return status;
            if (!NAME(lower)(t, k))
                return INFEASIBLE;
        }
    return SOLVED;
}

/* The least loss of every exchange, whatever the search has looked at. */
static void NAME(exact_losses)(Transport *t)
{
    int64_t n = t->n, m = t->m;
    for (int64_t e = 0; e < (m + 1) * (m + 1); e++)
        t->loss[e] = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const REAL *value = NAME(row_of)(t, i);
#if SEVERAL
        for (int64_t j = 0; j <= m; j++) {
            if (t->units[i * (m + 1) + j] < 1)
                continue;
#else
        int64_t j = t->at[i];
        {
#endif
            double own = NAME(value_at)(t, i, j);
            double *of = t->loss + j * (m + 1);
            for (int64_t k = 0; k < m; k++) {
                double w = own - (double)value[k];
                of[k] = w < of[k] && NAME(addable)(t, i, k) > 0 ? w : of[k];
            }
            of[m] = fmin(of[m], own - outside_of(t, i));
        }
    }
}

/* Prices of a sample of the rows with its share of the slots, as a start; recursive. */
static int NAME(start_prices)(Transport *t, int64_t *row, int64_t *space, double *price)
{
    int64_t m = t->m, n = t->n, size = n / SAMPLE_DIVISOR;
    for (int64_t k = 0; k < m; k++)
        price[k] = 0.0;
    if (size < MIN_PER_MODEL * m)
        return SOLVED;
    double supply = 0.0, sampled = 0.0;
    for (int64_t s = 0; s < size; s++) {
        double place = (double)s + fmod((double)s * GOLDEN, 1.0);
        int64_t i = least((int64_t)(place * ((double)n / (double)size)), n - 1);
        sampled += SEVERAL ? (double)supply_of(t, i) : 1.0;
        row[s] = agent_of(t, i);
    }
    for (int64_t i = 0; i < n; i++)
        supply += SEVERAL ? (double)supply_of(t, i) : 1.0;
    Transport sample = *t;
    sample.n = size;
    sample.row = row;
    share_supply(&sample, sampled / supply, space);
    int status = NAME(start_prices)(&sample, row + size, space + (2 + t->tiers) * m, price);
    t->searches = sample.searches;
    if (status != SOLVED)
        return status;
    for (int64_t k = 0; k < m; k++)
        sample.price[k] = price[k];
    status = NAME(assign)(&sample);
    t->searches = sample.searches;
    for (int64_t k = 0; k < m; k++) /* that the sample is infeasible says nothing about the whole */
        price[k] = status == INFEASIBLE ? 0.0 : sample.price[k];
    return status == INFEASIBLE ? SOLVED : status;
}

static int NAME(solve)(Transport *t, int64_t *row, int64_t *space, int bounded)
{
    int64_t m = t->m;
    double *start = t->dist; /* a sample has done with it when prices are handed on */
    int status = NAME(start_prices)(t, row, space, start);
    if (status != SOLVED)
        return status;
    for (int64_t k = 0; k < m; k++)
        t->price[k] = start[k];
    status = NAME(assign)(t);
    if (status != SOLVED)
        return status;
    NAME(exact_losses)(t);
    for (int64_t k = 0; k < m; k++)
        t->price[k] = bounded ? t->last_cost[k] : 0.0;
    t->price[m] = 0.0;
    raise_prices(t);
    if (bounded)
        price_the_free(t);
    return SOLVED;
}
