/* Products over all rows at once: what stands before a scan, and the gradients behind it. The bits of a result do not
   depend on the number of threads. */

#include "rnngen.h"

#define ROWS_AT_ONCE 64  /* rows of a product whose panels are read once for all of them */
#define STEPS_AT_ONCE 64 /* rows of an outer product that are summed before the sum is stored */
#define SUMS 1048576     /* products of an outer product that are worth a thread */

/* Elements of d in a tile of an outer product, by ABREAST vectors of v: what the registers hold. On AVX2 6 give 115
   GF/s where 8, which do not fit, give 83. */
#if REGISTERS == 32
#define TILE 8
#else
#define TILE 6
#endif
#define STRIP (2 * TILE) /* elements of d that are packed at once: with TILE 8 and float, a cache line */

static inline REAL *aligned(void *memory) { return (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63); }

/* out (rows, ...) = x (rows, ...) by a product of `rnngen.h`, plus `added`, as much as out, or 0. */
static int apply(struct product product, REAL *out, int64_t out_width, const REAL *x, int64_t width, int64_t rows,
    const REAL *added, int threads)
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
        const int64_t some = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        REAL *const to = out + first * out_width;
        multiply(to, out_width, x + first * width, width, some, &product);
        if (added) {
            const REAL *const more = added + first * out_width;
            EACH(n, some * out_width) to[n] += more[n];
        }
    }
    free(memory);
    return 0;
}

/* A call: where it goes, what it takes, matrices, a bias or 0; how many rows, matrices, rows and columns of each,
   heads of square ones or 0; threads, and whether it is added to what is there, or of a product whether the bias is as
   much as the result; where a second result goes, or 0; of an outer product, how far apart the rows of v and of d are.
   */
struct numbers {
    REAL *out;
    const REAL *rows, *matrices, *bias;
    int64_t count_of_rows, count, outputs, inputs, heads, threads, more;
    REAL *total;
    int64_t apart, d_apart;
};

/* M @ v for each matrix, and a bias, or what is added to it. */
int product(const struct numbers *n)
{
    struct product product = n->heads ? headed(n->matrices, n->count, n->outputs, n->heads)
                                      : dense(n->matrices, n->count, n->outputs, n->inputs);
    product.bias = n->more ? NULL : n->bias;
    return apply(product, n->out, n->count * n->outputs, n->rows, n->inputs, n->count_of_rows,
        n->more ? n->bias : NULL, n->threads);
}

/* The sum of M.T @ v over the matrices. */
int product_transposed(const struct numbers *n)
{
    const struct product product = n->heads ? headed_transposed(n->matrices, n->count, n->outputs, n->heads)
                                            : dense_transposed(n->matrices, n->count, n->outputs, n->inputs);
    return apply(product, n->out, n->inputs, n->rows, n->count * n->outputs, n->count_of_rows, NULL, n->threads);
}

/* `high` elements of d by `abreast` vectors of v: their sum of d v.T over packed rows. `ahead` is fetched meanwhile, a
   row of a strip for each row, `step` bytes apart: of 16384 rows 256 wide, by 64, that makes 206 GF/s of 160. */
static inline __attribute__((always_inline)) void tile(REAL *out, int64_t out_width, int64_t height, int64_t width,
    const REAL *d, const REAL *v, int64_t rows, int more, uintptr_t ahead, int64_t step, const int high,
    const int abreast)
{
    vector sums[STRIP][ABREAST];
    EVERY for (int i = 0; i < high; i++)
        EVERY for (int n = 0; n < abreast; n++) sums[i][n] = (vector){0};
    for (int64_t r = 0; r < rows; r++, d += STRIP, v += PANEL, ahead += step) {
        EVERY for (int i = 0; i < high; i += 64 / (int)sizeof(REAL))
            __builtin_prefetch((const REAL *)ahead + i);
        EVERY for (int i = 0; i < high; i++) {
            const vector one = d[i] - (vector){0};
            EVERY for (int n = 0; n < abreast; n++) sums[i][n] += one * *(const vector *)(v + n * LANES);
        }
    }
    EVERY for (int i = 0; i < high; i++) {
        REAL *const to = out + i * out_width;
        if (i < height && width == abreast * LANES) {
            EVERY for (int n = 0; n < abreast; n++) {
                unaligned *const place = (unaligned *)(to + n * LANES);
                *place = sums[i][n] + (more ? *place : (unaligned){0});
            }
        } else if (i < height) {
            vector row[ABREAST]; /* whose address is taken, which would keep all sums in memory */
            EVERY for (int n = 0; n < abreast; n++) row[n] = sums[i][n];
            const REAL *const found = (const REAL *)row;
            if (more)
                for (int64_t n = 0; n < width; n++)
                    to[n] += found[n];
            else
                copy_part(to, found, width, abreast * LANES);
        }
    }
}

#define TILE_OF(NAME, HIGH, VECTORS)                                                                                  \
    static __attribute__((noinline)) void NAME(REAL *out, int64_t out_width, int64_t height, int64_t width,           \
        const REAL *d, const REAL *v, int64_t rows, int more, uintptr_t ahead, int64_t step)                          \
    {                                                                                                                 \
        tile(out, out_width, height, width, d, v, rows, more, ahead, step, HIGH, VECTORS);                            \
    }
TILE_OF(tile_broad, TILE, ABREAST)
TILE_OF(tile_narrow, TILE, 1)
TILE_OF(tile_tall, STRIP, 1)

/* A matrix of an outer product's sides, or one head of it: `width` columns of rows that lie `step` apart, up to the
   end of the tensor. */
struct side {
    const REAL *first, *end;
    int64_t step, width;
};

/* `wide` columns of rows, packed: what stands behind the side's columns, or zeros behind its end, goes into what is
   not stored. */
static inline __attribute__((always_inline)) void pack_rows(REAL *into, const struct side *side, int64_t begin,
    int64_t rows, int64_t column, const int wide)
{
    const REAL *from = side->first + begin * side->step + column;
    for (int64_t r = 0; r < rows; r++, into += wide, from += side->step)
        if (side->end - from >= wide)
            memcpy(into, from, wide * sizeof(REAL));
        else
            for (int64_t n = 0; n < wide; n++)
                into[n] = n < side->end - from ? from[n] : 0;
}

/* The sum of packed rows of a strip. */
static void add_up(REAL *total, const REAL *strip, int64_t rows, int64_t width, int more)
{
    REAL sums[STRIP] = {0};
    for (int64_t r = 0; r < rows; r++, strip += STRIP)
        EVERY for (int i = 0; i < STRIP; i++) sums[i] += strip[i];
    for (int64_t i = 0; i < width && i < STRIP; i++)
        total[i] = more ? total[i] + sums[i] : sums[i];
}

/* Strips from `first` on: of out (d.width, v.width) = the sum over rows of d v.T, and of the sum of d, if it is
   wanted. */
static void strips(REAL *out, REAL *total, struct side d, struct side v, int64_t rows, int64_t first, int64_t end,
    int more, REAL *room)
{
    const int64_t panels = (v.width + PANEL - 1) / PANEL;
    REAL *const v_room = room, *const strip = room + STEPS_AT_ONCE * panels * PANEL;
    for (int64_t begin = 0; begin < rows; begin += STEPS_AT_ONCE, more = 1) {
        const int64_t steps = rows - begin < STEPS_AT_ONCE ? rows - begin : STEPS_AT_ONCE;
        for (int64_t panel = 0; panel < panels; panel++)
            pack_rows(v_room + panel * STEPS_AT_ONCE * PANEL, &v, begin, steps, panel * PANEL, PANEL);
        for (int64_t n = first; n < end; n++) {
            const int64_t next = n + 1 < end ? begin * d.step + (n + 1) * STRIP
                                             : (begin + steps) * d.step + first * STRIP;
            const int64_t high = d.width - n * STRIP;
            pack_rows(strip, &d, begin, steps, n * STRIP, STRIP);
            if (total)
                add_up(total + n * STRIP, strip, steps, high, more);
            for (int64_t panel = 0; panel < panels; panel++) {
                const int64_t left = v.width - panel * PANEL, step = panel ? 0 : d.step * (int64_t)sizeof(REAL);
                REAL *const to = out + n * STRIP * v.width + panel * PANEL;
                const REAL *const its = v_room + panel * STEPS_AT_ONCE * PANEL;
                const uintptr_t ahead = (uintptr_t)d.first + next * sizeof(REAL);
                if (left > LANES)
                    for (int64_t i = 0; i < STRIP && i < high; i += TILE)
                        tile_broad(to + i * v.width, v.width, high - i, left < PANEL ? left : PANEL, strip + i, its,
                            steps, more, ahead + i * sizeof(REAL), step);
                else if (high > TILE)
                    tile_tall(to, v.width, high, left, strip, its, steps, more, ahead, step);
                else
                    tile_narrow(to, v.width, high, left, strip, its, steps, more, ahead, step);
            }
        }
    }
}

/* The sum over all rows of d v.T, in the layout of the matrices; of those with heads, their blocks. d stands for the
   matrices. And the sum of d over all rows. */
int outer(const struct numbers *n)
{
    const int64_t heads = n->heads, blocks = heads ? n->count * heads : 1, rows = n->count_of_rows;
    const int64_t outputs = n->count * n->outputs, height = heads ? n->outputs / heads : outputs;
    const int64_t width = heads ? n->inputs / heads : n->inputs;
    const int64_t high = (height + STRIP - 1) / STRIP, most = 1 + rows * height * width * blocks / SUMS;
    const int64_t parts = threads_of(most < high * blocks ? most : high * blocks, n->threads);
    const int64_t own = STEPS_AT_ONCE * (STRIP + (width + PANEL - 1) / PANEL * PANEL);
    if (rows == 0 && !n->more) {
        memset(n->out, 0, blocks * height * width * sizeof(REAL));
        if (n->total)
            memset(n->total, 0, outputs * sizeof(REAL));
        return 0;
    }
    void *const memory = malloc(parts * own * sizeof(REAL) + 64);
    if (!memory)
        return 1;
    REAL *const room = aligned(memory);
    const int64_t before = rows ? rows - 1 : 0; /* behind the last row nothing may be read, wherever others lie */
    const struct side d = {n->matrices, n->matrices + before * n->d_apart + outputs, n->d_apart, height};
    const struct side v = {n->rows, n->rows + before * n->apart + n->inputs, n->apart, width};
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
#endif
    for (int64_t part = 0; part < parts; part++) {
        const int64_t stop = high * blocks * (part + 1) / parts;
        for (int64_t at = high * blocks * part / parts, end; at < stop; at = end) {
            const int64_t block = at / high, behind = (block + 1) * high;
            struct side its_d = d, its_v = v;
            its_d.first += block * height;
            its_v.first += heads ? block % heads * width : 0;
            end = behind < stop ? behind : stop;
            strips(n->out + block * height * width, n->total ? n->total + block * height : NULL, its_d, its_v, rows,
                at - block * high, end - block * high, n->more, room + part * own);
        }
    }
    free(memory);
    return 0;
}
