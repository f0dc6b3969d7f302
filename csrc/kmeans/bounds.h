/* k-means: bounds that spare the search (Hamerly 2010; by groups, Ding et al. 2015, "Yinyang").
 *
 * A bound is stored against the way its centroids have gone so far, so that a point it spares is read and not written:
 * the distance to the own centroid is at most upper + moved[label], the distance to the others of a group at least
 * group_lower - group_moved. Roundings of the sums are below SLACK of all terms. */
#define SLACK 0x1p-20f

/* Whether "at most upper" and "at least lower" leave no doubt which is less; `moved` is the sum of both ways. */
static inline int apart(float upper, float lower, float moved) {
    return upper * (1 + SLACK) + 2 * SLACK * moved < lower * (1 - SLACK); /* lower may be infinite */
}

static inline float own_upper(const hqk_kmeans_bounds *b, size_t row, uint32_t label) {
    return b->upper[row] + b->moved[label];
}

/* At least so far from a group; 0 for what is not a number (a way beyond f32). */
static inline float group_distance(const hqk_kmeans_bounds *b, size_t groups, size_t row, size_t group) {
    float lower = b->group_lower[row * groups + group] - b->group_moved[group];
    return lower > 0 ? lower : 0;
}

static inline int group_apart(const hqk_kmeans_bounds *b, size_t groups, size_t row, size_t group, float upper,
                              float moved) {
    return apart(upper, group_distance(b, groups, row, group), moved + b->group_moved[group]);
}

/* The group of a centroid. */
static inline size_t group_of(size_t k, size_t groups, size_t centroid) {
    size_t size = k / groups, rest = k % groups, in_larger = rest * (size + 1);
    return centroid < in_larger ? centroid / (size + 1) : rest + (centroid - in_larger) / size;
}

/* Groups that may hold the nearest centroid of one of the rows; always their own. */
static uint64_t open_groups(const hqk_kmeans_centroids *to, const hqk_kmeans_bounds *b, const uint32_t *labels,
                            const size_t *row, size_t count) {
    size_t groups = to->groups;
    uint64_t open = 0, every = groups == 64 ? ~(uint64_t)0 : ((uint64_t)1 << groups) - 1;
    if (groups == 1) return 1;
    for (size_t t = 0; t < count && open != every; t++) {
        uint32_t label = labels[row[t]];
        if (label >= to->k) return every; /* no label yet */
        float upper = own_upper(b, row[t], label);
        open |= (uint64_t)1 << group_of(to->k, groups, label);
        for (size_t group = 0; group < groups; group++)
            open |= (uint64_t)!group_apart(b, groups, row[t], group, upper, b->moved[label]) << group;
    }
    return open;
}

/* |x|^2 - 2 score + sign * error, no less than 0, and its root, rounded by `factor` to the side of the sign. */
static inline vec distance_bound(vec score, vec norm, vec error, float sign, float factor) {
    error = v_mul(v_all(sign), v_fma(norm, v_all(0x1p-22f), error));
    vec square = v_fma(score, v_all(-2.0f), v_add(norm, error));
    return v_mul(v_sqrt(v_max(square, v_all(0.0f))), v_all(factor));
}

/* Bounds from the scores of the open groups. `winner` is the group whose best is the label, NO_GROUP where scores did
 * not decide: there the best of each group stays among the others, and the label's score is less by up to the error. */
static void keep_bounds(const hqk_kmeans_centroids *to, const hqk_kmeans_bounds *b, uint64_t open, const leaders *all,
                        const leaders *of_group, const vec *error, const float *norms, const uint32_t *winner,
                        const uint32_t *label, const size_t *row, size_t count) {
    size_t groups = to->groups;
    float kept[MOST_GROUPS][POINTS], least[POINTS], upper[POINTS];
    for (int v = 0; v < VECTORS; v++) {
        vec norm = v_load(norms + v * LANES), nearest = v_all(INFINITY);
        ints won = i_load(winner + v * LANES);
        for (size_t group = 0; group < groups; group++) {
            if (!(open >> group & 1)) continue;
            flags own = i_same(won, i_all((uint32_t)group));
            vec score = v_pick(own, of_group[group].second[v], of_group[group].best[v]);
            vec lower = distance_bound(score, norm, error[v], -1, 1 - SLACK);
            nearest = v_min(lower, nearest);
            v_store(kept[group] + v * LANES, v_add(lower, v_all(b->group_moved[group])));
        }
        v_store(least + v * LANES, nearest);
        vec score = v_pick(i_same(won, i_all(NO_GROUP)), v_sub(all->best[v], error[v]), all->best[v]);
        v_store(upper + v * LANES, distance_bound(score, norm, error[v], 1, 1 + SLACK));
    }
    for (size_t t = 0; t < count; t++) {
        for (size_t group = 0; group < groups && groups > 1; group++) {
            float lower = least[t];
            if (open >> group & 1)
                b->group_lower[row[t] * groups + group] = kept[group][t];
            else
                lower = group_distance(b, groups, row[t], group);
            least[t] = lower < least[t] ? lower : least[t];
        }
        b->upper[row[t]] = upper[t] - b->moved[label[t]];
        b->lower[row[t]] = least[t] + b->most_moved;
    }
}

void HQK_NAME(hqk_kmeans_filter)(const float *points, size_t n, const hqk_kmeans_centroids *to,
                                 const hqk_kmeans_bounds *b, const uint32_t *labels, int measure, uint32_t *rows,
                                 size_t *count) {
    size_t groups = to->groups, left = 0;
    for (size_t t = 0; t < n; t++) {
        float moved = b->moved[labels[t]], upper = b->upper[t] + moved;
        rows[left] = (uint32_t)t;
        left += !apart(upper, b->lower[t] - b->most_moved, moved + b->most_moved);
    }
    size_t candidates = left;
    left = 0;
    for (size_t c = 0; c < candidates; c++) {
        size_t t = rows[c];
        uint32_t label = labels[t];
        float moved = b->moved[label], upper = b->upper[t] + moved, lower = b->lower[t] - b->most_moved;
        if (groups > 1) {
            lower = INFINITY;
            for (size_t group = 0; group < groups; group++) {
                float bound = group_distance(b, groups, t, group);
                lower = bound < lower ? bound : lower;
            }
            b->lower[t] = lower + b->most_moved;
        }
        if (measure && !apart(upper, lower, moved + b->most_moved)) {
            double exact = exact_distance(points + t * to->dim, to->centroids + label * to->dim, to->dim);
            upper = (float)sqrt(exact) * (1 + SLACK);
            b->upper[t] = upper - moved;
        }
        rows[left] = (uint32_t)t;
        left += !apart(upper, lower, moved + b->most_moved);
    }
    *count = left;
}
