/* The walk of one row through the trees of a model, with the bits of LightGBM's own in a third of
   its time.

   A step from a node to its child is a comparison and an addition, without a branch that a
   processor could guess wrong: whatever else LightGBM decides by (missing values, sets of
   categories) is worked out once for the row, before the first step, and a leaf is its own child.
   LANES trees are walked at a time, until none of them moves: the steps of one tree wait for each
   other, those of sixteen do not.

   forest.py writes the bytes that forest_open takes, and says what they mean. They come from
   another process: nothing of them is used before it is checked, and no walk leaves them. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT 2 /* of what is packed; one more with every change of it, here and in forest.py */
#define LANES 16
#define VIEWS 5        /* of each column; see look */
#define NOTHING 1e-35f /* LightGBM's kZeroThreshold: what is no further from zero is zero */

typedef struct { uint32_t columns, nodes, trees, sets, words, transform; } Head;
typedef struct { double threshold; uint32_t place, child; } Node; /* a leaf: its value, 0, itself */
typedef struct { uint32_t column, first, last; } Set; /* a bit for each category that goes left */

typedef struct {
    Head head;
    const Node *nodes;
    const uint32_t *roots; /* of the trees, one behind the other */
    const Set *sets;
    const uint32_t *words;
    double *seen;         /* LANES rows as the nodes look at them: see look */
    uint32_t *categories; /* LANES rows as the sets look at them */
} Forest;

enum { AS_IT_IS, PROBABILITY, EXPONENT, TRANSFORMS };

static size_t width(const Head *head)
{
    return 1 + (size_t)VIEWS * head->columns + head->sets;
}

/* A leaf that is NaN would be left, as nothing is at most that. */
static int is_leaf(const Forest *forest, uint32_t n)
{
    const Node *node = forest->nodes + n;
    return node->place == 0 && node->child == n && !isnan(node->threshold);
}

/* Every walk stays within its tree and goes forward only. */
static int is_sound(const Forest *forest)
{
    const Head *head = &forest->head;
    for (uint32_t tree = 0, n = 0; tree < head->trees; tree++) {
        uint32_t end = tree + 1 < head->trees ? forest->roots[tree + 1] : head->nodes;
        if (forest->roots[tree] != n || end <= n || end > head->nodes)
            return 0;
        for (; n < end; n++) {
            uint32_t child = forest->nodes[n].child;
            int is_split = child > n && child < end - 1 && forest->nodes[n].place < width(head);
            if (!is_split && !is_leaf(forest, n))
                return 0;
        }
    }
    for (uint32_t n = 0; n < head->sets; n++) {
        const Set *set = forest->sets + n;
        if (set->column >= head->columns || (uint64_t)set->first + set->last >= head->words)
            return 0;
    }
    return head->trees > 0 && head->transform < TRANSFORMS;
}

int forest_format(void)
{
    return FORMAT;
}

void forest_close(Forest *forest)
{
    if (forest)
        free(forest->seen);
    free(forest);
}

/* Return the forest in size bytes, a copy of them; NULL if they are none, or there is no memory. */
Forest *forest_open(const void *packed, size_t size)
{
    Head head;
    if (size < sizeof head)
        return NULL;
    memcpy(&head, packed, sizeof head);
    size_t nodes = head.nodes * sizeof(Node), roots = head.trees * sizeof(uint32_t);
    size_t sets = head.sets * sizeof(Set), words = head.words * sizeof(uint32_t);
    if (size - sizeof head != nodes + roots + sets + words)
        return NULL;
    Forest *forest = calloc(1, sizeof *forest + size - sizeof head);
    if (!forest)
        return NULL;
    char *rest = memcpy(forest + 1, (const char *)packed + sizeof head, size - sizeof head);
    forest->head = head;
    forest->nodes = (const Node *)rest;
    forest->roots = (const uint32_t *)(rest + nodes);
    forest->sets = (const Set *)(rest + nodes + roots);
    forest->words = (const uint32_t *)(rest + nodes + roots + sets);
    if (is_sound(forest))
        forest->seen =
            malloc(LANES * (width(&head) * sizeof(double) + head.columns * sizeof(uint32_t)));
    if (forest->seen) {
        forest->categories = (uint32_t *)(forest->seen + LANES * width(&head));
        return forest;
    }
    forest_close(forest);
    return NULL;
}

/* Work out what the nodes compare in one of *lanes* rows, whose numbers lie side by side. A split
   goes left where what it looks at is at most its threshold: minus infinity always is, NaN never
   is. */
static inline void look(const Forest *forest, const double *row, size_t lane, size_t lanes)
{
    const Head *head = &forest->head;
    uint32_t *categories = forest->categories + lane;
    double *seen = forest->seen + lane;
    *seen = -INFINITY; /* for leaves: on to themselves */
    seen += lanes;
    for (uint32_t c = 0; c < head->columns; c++, seen += VIEWS * lanes) {
        double x = fabs(row[c]) <= NOTHING ? 0.0 : row[c];
        seen[0] = isnan(x) ? 0.0 : x;                           /* missing is zero */
        seen[1 * lanes] = isnan(x) ? -INFINITY : x;             /* missing goes left */
        seen[2 * lanes] = x;                                    /* missing goes right */
        seen[3 * lanes] = isnan(x) || x == 0.0 ? -INFINITY : x; /* zero is missing, goes left */
        seen[4 * lanes] = x == 0.0 ? NAN : x;                   /* zero is missing, goes right */
        int is_known = x > -1.0 && x < 2147483648.0; /* for LightGBM -0.5 is category 0 */
        categories[c * lanes] = is_known ? (uint32_t)x : UINT32_MAX;
    }
}

/* Work out the same for sets of categories. The last word of a set has no bits, so that a category
   behind it, and none at all, needs no branch: they differ from row to row. */
static inline void look_at_sets(const Forest *forest, size_t lanes)
{
    static const double right_or_left[] = {INFINITY, -INFINITY};
    const Head *head = &forest->head;
    double *seen = forest->seen + (1 + (size_t)VIEWS * head->columns) * lanes;
    for (uint32_t n = 0; n < head->sets; n++, seen += lanes) {
        const Set *set = forest->sets + n;
        const uint32_t *categories = forest->categories + set->column * lanes;
        const uint32_t *words = forest->words + set->first;
        for (size_t k = 0; k < lanes; k++) {
            uint32_t category = categories[k], word = category / 32;
            uint32_t bits = words[word < set->last ? word : set->last];
            seen[k] = right_or_left[bits >> category % 32 & 1];
        }
    }
}

/* Return the sum of the leaves in the order of the trees, as its bits depend on it. */
static double walk(const Forest *forest)
{
    const Node *nodes = forest->nodes;
    const double *seen = forest->seen;
    double sum = 0.0;
    for (uint32_t first = 0; first < forest->head.trees; first += LANES) {
        uint32_t left = forest->head.trees - first, lanes = left < LANES ? left : LANES;
        uint32_t at[LANES], moved = 1;
        for (uint32_t k = 0; k < LANES; k++) /* as many each time, for the compiler to unroll */
            at[k] = forest->roots[first + (k < lanes ? k : 0)];
        while (moved) {
            moved = 0;
            for (uint32_t k = 0; k < LANES; k++) {
                const Node *node = nodes + at[k];
                uint32_t next = node->child + !(seen[node->place] <= node->threshold);
                moved |= next ^ at[k];
                at[k] = next;
            }
        }
        for (uint32_t k = 0; k < lanes; k++)
            sum += nodes[at[k]].threshold;
    }
    return sum;
}

static double transformed(const Forest *forest, double sum)
{
    if (forest->head.transform == PROBABILITY)
        return 1.0 / (1.0 + exp(-sum));
    return forest->head.transform == EXPONENT ? exp(sum) : sum;
}

/* Score one row; return 0, as it cannot fail. */
int forest_score(const Forest *forest, const double *row, double *score)
{
    look(forest, row, 0, 1);
    look_at_sets(forest, 1);
    *score = transformed(forest, walk(forest));
    return 0;
}

/* Walk LANES rows through each tree: it stays in the nearest cache, and their steps do not wait for
   each other. The sum of a row is in the order of the trees, so its bits are those of walk. */
static void walk_rows(const Forest *forest, double *sums)
{
    const Node *nodes = forest->nodes;
    const double *seen = forest->seen;
    for (uint32_t tree = 0; tree < forest->head.trees; tree++) {
        uint32_t at[LANES], moved = 1;
        for (uint32_t k = 0; k < LANES; k++)
            at[k] = forest->roots[tree];
        while (moved) {
            moved = 0;
            for (uint32_t k = 0; k < LANES; k++) {
                const Node *node = nodes + at[k];
                double x = seen[(size_t)node->place * LANES + k];
                uint32_t next = node->child + !(x <= node->threshold);
                moved |= next ^ at[k];
                at[k] = next;
            }
        }
        for (uint32_t k = 0; k < LANES; k++)
            sums[k] += nodes[at[k]].threshold;
    }
}

/* Score count rows, one behind the other, with the bits of forest_score; return 0. */
int forest_scores(const Forest *forest, const double *rows, size_t count, double *scores)
{
    uint32_t columns = forest->head.columns;
    for (size_t first = 0; first < count; first += LANES) {
        size_t left = count - first, lanes = left < LANES ? left : LANES;
        double sums[LANES] = {0.0};
        for (size_t k = 0; k < LANES; k++) /* lanes without a row repeat the first one */
            look(forest, rows + (first + (k < lanes ? k : 0)) * columns, k, LANES);
        look_at_sets(forest, LANES);
        walk_rows(forest, sums);
        for (size_t k = 0; k < lanes; k++)
            scores[first + k] = transformed(forest, sums[k]);
    }
    return 0;
}
