/* Products over all rows at once: what stands before a scan, and the gradients behind it. The bits of a result do not
   depend on the number of threads. */

#include "rnngen.h"

#define ROWS_AT_ONCE 64   /* rows of a product whose panels are read once for all of them */
#define STEPS_AT_ONCE 256 /* rows of an outer product that are summed before the sum is stored */
#define TILE 8
#define SUMS 1048576      /* products of an outer product that are worth a thread */

static inline REAL *aligned(void *memory) { return (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63); }

/* out (rows, ...) = x (rows, ...) by a product of `rnngen.h`. */
static int apply(struct product product, REAL *out, int64_t out_width, const REAL *x, int64_t width, int64_t rows,
    int threads)
{
    void *const memory = malloc(packed_size(&product) * sizeof(REAL) + 64);
    if (!memory)
        return 1;
    pack(&product, aligned(memory));
    const int64_t blocks = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, parts = threads_of(blocks, threads);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
#endif
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t first = block * ROWS_AT_ONCE, left = rows - first;
        multiply(out + first * out_width, out_width, x + first * width, width,
            left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE, &product);
    }
    free(memory);
    return 0;
}

/* A call: where it goes, what it takes, matrices, a bias or 0; how many rows, matrices, rows and columns of each,
   heads of square ones or 0; threads, and whether it is added to what is there. */
struct numbers {
    REAL *out;
    const REAL *rows, *matrices, *bias;
    int64_t count_of_rows, count, outputs, inputs, heads, threads, more;
};

/* M @ v for each matrix, and a bias. */
int product(const struct numbers *n)
{
    struct product product = n->heads ? headed(n->matrices, n->count, n->outputs, n->heads)
                                      : dense(n->matrices, n->count, n->outputs, n->inputs);
    product.bias = n->bias;
    return apply(product, n->out, n->count * n->outputs, n->rows, n->inputs, n->count_of_rows, n->threads);
}

/* The sum of M.T @ v over the matrices. */
int product_transposed(const struct numbers *n)
{
    const struct product product = n->heads ? headed_transposed(n->matrices, n->count, n->outputs, n->heads)
                                            : dense_transposed(n->matrices, n->count, n->outputs, n->inputs);
    return apply(product, n->out, n->inputs, n->rows, n->count * n->outputs, n->count_of_rows, n->threads);
}

/* A tile of the sum of d v.T: TILE elements of d by `abreast` vectors of v, over rows that are packed. */
static inline __attribute__((always_inline)) void tile(REAL *out, int64_t out_width, int64_t height, int64_t width,
    const REAL *d, const REAL *v, int64_t rows, int more, const int abreast)
{
    vector sums[TILE][ABREAST];
    EVERY for (int i = 0; i < TILE; i++)
        EVERY for (int n = 0; n < abreast; n++) sums[i][n] = (vector){0};
    for (int64_t r = 0; r < rows; r++, d += TILE, v += PANEL)
        EVERY for (int i = 0; i < TILE; i++) {
            const vector one = d[i] - (vector){0};
            EVERY for (int n = 0; n < abreast; n++) sums[i][n] += one * *(const vector *)(v + n * LANES);
        }
    for (int64_t i = 0; i < height; i++) {
        REAL *const to = out + i * out_width;
        if (width == abreast * LANES) {
            EVERY for (int n = 0; n < abreast; n++) {
                unaligned *const place = (unaligned *)(to + n * LANES);
                *place = sums[i][n] + (more ? *place : (unaligned){0});
            }
        } else {
            const REAL *const found = (const REAL *)sums[i];
            for (int64_t n = 0; n < width; n++)
                to[n] = more ? to[n] + found[n] : found[n];
        }
    }
}

/* Tiles of TILE rows each, from `first` on: of out (height, width) = the sum over rows of d v.T. */
static void tiles(REAL *out, const REAL *d, int64_t d_width, const REAL *v, int64_t v_width, int64_t rows,
    int64_t height, int64_t width, int64_t first, int64_t end, int more, REAL *room)
{
    const int64_t panels = (width + PANEL - 1) / PANEL;
    REAL *const d_room = room, *const v_room = room + STEPS_AT_ONCE * TILE;
    for (int64_t n = first * TILE; rows == 0 && !more && n < end * TILE && n < height; n++)
        memset(out + n * width, 0, width * sizeof(REAL));
    for (int64_t begin = 0; begin < rows; begin += STEPS_AT_ONCE) {
        const int64_t steps = rows - begin < STEPS_AT_ONCE ? rows - begin : STEPS_AT_ONCE;
        for (int64_t panel = 0; panel < panels; panel++) {
            const int64_t left = width - panel * PANEL;
            for (int64_t r = 0; r < steps; r++)
                pack_row(v_room + (panel * STEPS_AT_ONCE + r) * PANEL, v + (begin + r) * v_width + panel * PANEL,
                    left < PANEL ? (int)left : PANEL, 1);
        }
        for (int64_t n = first; n < end; n++) {
            const int64_t below = height - n * TILE, high = below < TILE ? below : TILE;
            const REAL *from = d + begin * d_width + n * TILE;
            for (int64_t r = 0; r < steps; r++, from += d_width)
                if (high == TILE)
                    memcpy(d_room + r * TILE, from, TILE * sizeof(REAL));
                else
                    for (int64_t i = 0; i < TILE; i++)
                        d_room[r * TILE + i] = i < high ? from[i] : 0;
            for (int64_t panel = 0; panel < panels; panel++) {
                const int64_t left = width - panel * PANEL;
                REAL *const to = out + n * TILE * width + panel * PANEL;
                const REAL *const its = v_room + panel * STEPS_AT_ONCE * PANEL;
                if (left <= LANES)
                    tile(to, width, high, left, d_room, its, steps, more || begin > 0, 1);
                else
                    tile(to, width, high, left < PANEL ? left : PANEL, d_room, its, steps, more || begin > 0, ABREAST);
            }
        }
    }
}

/* The sum over all rows of d v.T, in the layout of the matrices; of those with heads, their blocks. d stands for the
   matrices. */
int outer(const struct numbers *n)
{
    const int64_t heads = n->heads, blocks = heads ? n->count * heads : 1;
    const int64_t height = heads ? n->outputs / heads : n->count * n->outputs;
    const int64_t width = heads ? n->inputs / heads : n->inputs;
    const int64_t high = (height + TILE - 1) / TILE, most = 1 + n->count_of_rows * height * width / SUMS;
    const int64_t parts = threads_of(most < high ? most : high, n->threads);
    const int64_t own = STEPS_AT_ONCE * (TILE + (width + PANEL - 1) / PANEL * PANEL);
    void *const memory = malloc(parts * own * sizeof(REAL) + 64);
    if (!memory)
        return 1;
    REAL *const room = aligned(memory);
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
#endif
    for (int64_t part = 0; part < parts; part++)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t first = high * part / parts, end = high * (part + 1) / parts;
            tiles(n->out + block * height * width, n->matrices + block * height, n->count * n->outputs,
                n->rows + (heads ? block % heads * width : 0), n->inputs, n->count_of_rows, height, width, first, end,
                n->more, room + part * own);
        }
    free(memory);
    return 0;
}
