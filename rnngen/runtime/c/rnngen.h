/* What the C of generated modules includes: packed products, sums over units, and the loop over threads.

   REAL is float or double. Vectors are GNU C's, so that one source serves SSE, AVX2, AVX-512 and NEON. The
   arithmetic of an element of the batch depends neither on the others nor on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif
#define R(number) ((REAL)(number))

#include "functions.h"

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))
#if defined(__AVX512F__) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#define ABREAST 2 /* vectors of a panel */
#define PANEL (ABREAST * LANES)

typedef REAL vector __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* A loop over the units of a row, whose iterations do not depend on one another. */
#define EACH(unit, width) EACH_OF(unit, 0, width)
#define EACH_OF(unit, from, to) _Pragma("omp simd") for (int64_t unit = (from); unit < (to); unit++)
#define EVERY _Pragma("GCC unroll 16")
#define FEW 8 /* rows that go through several stages together: fewer have more overhead, more leave the first cache */

/* Products: out = a @ W for rows of a, with W packed into panels of PANEL columns, one row of a panel after another.

   W has `parts` independent parts, one but for block-diagonal matrices. A part is applied to `segments` pieces of a
   row, `length` elements each, and gives `outputs` elements. In front of a panel's rows stands what is added to the
   sums: a bias, or zeros. */
struct product {
    const REAL *weights;
    int64_t parts, segments, length, outputs;
    int64_t heads, stride;             /* of a row of a: part p has piece p % heads, and segments lie `stride` apart */
    int64_t of_part, of_segment, of_input, of_output; /* steps between the weights */
    const REAL *bias;                                 /* NULL for none */
    REAL *panels;
};

/* M @ v for each of `count` matrices (rows, columns), one below the other. */
static inline struct product dense(const REAL *weights, int64_t count, int64_t rows, int64_t columns)
{
    return (struct product){weights, 1, 1, columns, count * rows, 1, 0, 0, 0, 1, columns, NULL, NULL};
}

/* The sum of M.T @ v over `count` matrices. */
static inline struct product dense_transposed(const REAL *weights, int64_t count, int64_t rows, int64_t columns)
{
    return (struct product){weights, 1, 1, count * rows, columns, 1, 0, 0, 0, columns, 1, NULL, NULL};
}

/* The same of block-diagonal matrices of `width` units with `heads` blocks each. */
static inline struct product headed(const REAL *weights, int64_t count, int64_t width, int64_t heads)
{
    const int64_t own = width / heads;
    return (struct product){weights, count * heads, 1, own, own, heads, 0, own * own, 0, 1, own, NULL, NULL};
}

static inline struct product headed_transposed(const REAL *weights, int64_t count, int64_t width, int64_t heads)
{
    const int64_t own = width / heads;
    return (struct product){weights, heads, count, own, own, heads, width, own * own, width * own, own, 1, NULL, NULL};
}

static inline int64_t panels_of(const struct product *product)
{
    return (product->outputs + PANEL - 1) / PANEL;
}

static inline int64_t panel_size(const struct product *product)
{
    return (1 + product->segments * product->length) * PANEL;
}

static inline int64_t packed_size(const struct product *product)
{
    return product->parts * panels_of(product) * panel_size(product);
}

/* A row of a panel from elements that lie `step` apart; zeros behind them. */
static inline void pack_row(REAL *into, const REAL *from, int count, int64_t step)
{
    if (count == PANEL && step == 1) {
        memcpy(into, from, PANEL * sizeof(REAL));
        return;
    }
    for (int n = 0; n < count; n++)
        into[n] = from[n * step];
    for (int n = count; n < PANEL; n++)
        into[n] = 0;
}

#ifdef __clang__ /* it has no __builtin_shuffle */
static inline int64_t pack_columns(REAL *into, const REAL *from, int64_t step, int64_t length) { return 0; }
#else
typedef REAL edge __attribute__((vector_size(16)));
enum { SIDE = sizeof(edge) / sizeof(REAL), LINE = 64 / sizeof(REAL) };

/* A square of SIDE rows, transposed: to interleave each row with that half a square behind it, as often as SIDE has
   twos, brings every element to its place. */
static inline __attribute__((always_inline)) void transpose(REAL *into, int64_t into_step, const REAL *from,
    int64_t step)
{
    __typeof__((edge){0} == (edge){0}) low, high;
    edge rows[SIDE], next[SIDE];
    EVERY for (int n = 0; n < SIDE; n++) {
        low[n] = n / 2 + n % 2 * SIDE;
        high[n] = low[n] + SIDE / 2;
        memcpy(&rows[n], from + n * step, sizeof(edge));
    }
    EVERY for (int done = 1; done < SIDE; done += done) {
        EVERY for (int n = 0; n < SIDE / 2; n++) {
            next[2 * n] = __builtin_shuffle(rows[n], rows[n + SIDE / 2], low);
            next[2 * n + 1] = __builtin_shuffle(rows[n], rows[n + SIDE / 2], high);
        }
        EVERY for (int n = 0; n < SIDE; n++) rows[n] = next[n];
    }
    EVERY for (int n = 0; n < SIDE; n++) memcpy(into + n * into_step, &rows[n], sizeof(edge));
}

/* Rows of a panel whose columns lie `step` apart, while there is a cache line left of each: how many. Of 256 columns
   of 64 that takes 1.1 us where elements one by one take 3, and 24 of 51 of 1024 columns of 256. */
static inline int64_t pack_columns(REAL *into, const REAL *from, int64_t step, int64_t length)
{
    int64_t done = 0;
    for (; done + LINE <= length; done += LINE)
        for (int column = 0; column < PANEL; column += SIDE)
            EVERY for (int k = 0; k < LINE; k += SIDE)
                transpose(into + (done + k) * PANEL + column, PANEL, from + column * step + done + k, step);
    return done;
}
#endif

static void pack(struct product *product, REAL *into)
{
    product->panels = into;
    for (int64_t part = 0; part < product->parts; part++)
        for (int64_t panel = 0; panel < panels_of(product); panel++) {
            const int64_t first = panel * PANEL, left = product->outputs - first;
            const int count = left < PANEL ? (int)left : PANEL;
            pack_row(into, product->bias + part * product->outputs + first, product->bias ? count : 0, 1);
            into += PANEL;
            for (int64_t segment = 0; segment < product->segments; segment++) {
                const REAL *from = product->weights + part * product->of_part + segment * product->of_segment;
                from += first * product->of_output;
                const int columns = product->of_input == 1 && count == PANEL;
                int64_t k = columns ? pack_columns(into, from, product->of_output, product->length) : 0;
                into += k * PANEL, from += k;
                for (; k < product->length; k++, into += PANEL, from += product->of_input)
                    pack_row(into, from, count, product->of_output);
            }
        }
}

/* `count` elements, fewer than `most`, in pieces of known sizes: 1024 rows by four blocks of 8 units take 10 us, and 27
   where each piece of a row is a call of memcpy. */
static inline __attribute__((always_inline)) void copy_part(REAL *to, const REAL *from, int64_t count, const int most)
{
    EVERY for (int bit = 6; bit >= 0; bit--)
        if (1 << bit < most && count >> bit & 1) {
            memcpy(to, from, sizeof(REAL) << bit);
            to += 1 << bit, from += 1 << bit;
        }
}

/* ROWS rows of a by the first VECTORS vectors of neighbouring panels, whose columns are `width` in all. Every
   element is one chain of multiplications and additions in the order of k, whatever the kernel. */
#define KERNEL(ROWS, VECTORS)                                                                                         \
    static inline void multiply_##ROWS##_##VECTORS(REAL *restrict out, int64_t out_width, const REAL *restrict a,     \
        int64_t a_width, const struct product *product, const REAL *restrict panel, int64_t width)                    \
    {                                                                                                                 \
        const int64_t size = panel_size(product);                                                                     \
        vector sums[ROWS][VECTORS];                                                                                   \
        EVERY for (int i = 0; i < ROWS; i++)                                                                          \
            EVERY for (int v = 0; v < VECTORS; v++)                                                                   \
                sums[i][v] = *(const vector *)(panel + v / ABREAST * size + v % ABREAST * LANES);                     \
        panel += PANEL;                                                                                               \
        for (int64_t segment = 0; segment < product->segments; segment++)                                             \
            for (int64_t k = 0; k < product->length; k++, panel += PANEL) {                                           \
                vector columns[VECTORS];                                                                              \
                EVERY for (int v = 0; v < VECTORS; v++)                                                               \
                    columns[v] = *(const vector *)(panel + v / ABREAST * size + v % ABREAST * LANES);                 \
                EVERY for (int i = 0; i < ROWS; i++) {                                                                \
                    const vector one = a[i * a_width + segment * product->stride + k] - (vector){0};                  \
                    EVERY for (int v = 0; v < VECTORS; v++) sums[i][v] += one * columns[v];                           \
                }                                                                                                     \
            }                                                                                                         \
        if (width == VECTORS * LANES) {                                                                               \
            EVERY for (int i = 0; i < ROWS; i++)                                                                      \
                EVERY for (int v = 0; v < VECTORS; v++) *(unaligned *)(out + i * out_width + v * LANES) = sums[i][v]; \
            return;                                                                                                   \
        }                                                                                                             \
        vector found[ROWS][VECTORS];                                                                                  \
        EVERY for (int i = 0; i < ROWS; i++)                                                                          \
            EVERY for (int v = 0; v < VECTORS; v++) found[i][v] = sums[i][v];                                         \
        _Pragma("GCC unroll 1") for (int i = 0; i < ROWS; i++)                                                        \
            copy_part(out + i * out_width, (const REAL *)found[i], width, VECTORS * LANES);                           \
    }
KERNEL(8, 2)
KERNEL(6, 2)
KERNEL(4, 2)
KERNEL(2, 2)
KERNEL(1, 2)
KERNEL(4, 4)
KERNEL(1, 4)
KERNEL(2, 8)
KERNEL(2, 6)
KERNEL(1, 8)
KERNEL(1, 6)
KERNEL(16, 1)
KERNEL(12, 1)
KERNEL(8, 1)
KERNEL(4, 1)
KERNEL(2, 1)
KERNEL(1, 1)

/* As many rows at once as have their sums in registers: with 16 of them, on AVX2, 8 by 2 give 83 GF/s of what 6 by 2
   give 125. Where 8 or 16 are left halves of them are faster than 6 and 2, or 12 and 4. Of few rows there are more
   columns at once, for sums wait for one another: on AVX-512 4 by 4 give 190 GF/s, and 4 by 2 150. */
static void multiply(REAL *out, int64_t out_width, const REAL *a, int64_t a_width, int64_t rows,
    const struct product *product)
{
    const int64_t panels = panels_of(product), size = panel_size(product);
    for (int64_t part = 0; part < product->parts; part++) {
        const REAL *its = a + part % product->heads * product->length;
        const REAL *panel = product->panels + part * panels * size;
        REAL *to = out + part * product->outputs;
        for (int64_t left = product->outputs, done = 0; left > 0; left -= done * PANEL) {
            int64_t r = 0;
#define TILES(ROWS, VECTORS, BUT)                                                                                     \
    for (; r + ROWS <= rows && rows - r != BUT; r += ROWS)                                                            \
        multiply_##ROWS##_##VECTORS(to + r * out_width, out_width, its + r * a_width, a_width, product, panel,        \
            left < VECTORS * LANES ? left : VECTORS * LANES);
            done = 1;
            if (left <= LANES) {
                if (REGISTERS == 32) {
                    TILES(16, 1, 0)
                } else {
                    TILES(12, 1, 16)
                }
                TILES(8, 1, 0)
                TILES(4, 1, 0)
                TILES(2, 1, 0)
                TILES(1, 1, 0)
            } else if (rows < 4 && left > 3 * PANEL && REGISTERS == 32) {
                done = 4;
                TILES(2, 8, 0)
                TILES(1, 8, 0)
            } else if (rows >= 4 && rows < 6 && left > PANEL && REGISTERS == 32) {
                done = 2;
                TILES(4, 4, 0)
                TILES(1, 4, 0)
            } else if (rows < 4 && left > 2 * PANEL && REGISTERS == 16) {
                done = 3;
                TILES(2, 6, 0)
                TILES(1, 6, 0)
            } else {
                if (REGISTERS == 32) {
                    TILES(8, 2, 0)
                    TILES(6, 2, 0)
                } else {
                    TILES(6, 2, 8)
                }
                TILES(4, 2, 0)
                TILES(2, 2, 0)
                TILES(1, 2, 0)
            }
#undef TILES
            to += done * PANEL;
            panel += done * size;
        }
    }
}

/* Sums over the units of each row, in an order that depends on their number alone. */

/* The sum of the halves of a vector. */
#define HALVES(name, whole, part)                                                                                     \
    static inline part name(whole both)                                                                               \
    {                                                                                                                 \
        part low, high;                                                                                               \
        memcpy(&low, &both, sizeof low);                                                                              \
        memcpy(&high, (const char *)&both + sizeof low, sizeof high);                                                 \
        return low + high;                                                                                            \
    }
#define OF_16 (16 / sizeof(REAL))
typedef REAL of_16 __attribute__((vector_size(16)));
#if VECTOR_BYTES == 64
typedef REAL of_32 __attribute__((vector_size(32)));
HALVES(halves_of_64, vector, of_32)
HALVES(halves_of_32, of_32, of_16)
#define FOLDED(sums) halves_of_32(halves_of_64(sums))
#elif VECTOR_BYTES == 32
HALVES(halves_of_32, vector, of_16)
#define FOLDED(sums) halves_of_32(sums)
#else
#define FOLDED(sums) (sums)
#endif

/* The lanes are added by halves: one after the other they are a chain of as many additions. */
static inline REAL sum_of(const REAL *x, int64_t width)
{
    vector sums = {0};
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES)
        sums += *(const unaligned *)(x + j);
    const of_16 last = FOLDED(sums);
    REAL sum = WIDE ? last[0] + last[1] : (last[0] + last[2 % OF_16]) + (last[1] + last[3 % OF_16]);
    for (; j < width; j++)
        sum += x[j];
    return sum;
}

static inline void sum_(REAL *out, const REAL *x, int64_t stride, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        out[r] = sum_of(x + r * stride, width);
}

static inline void mean_(REAL *out, const REAL *x, int64_t stride, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        out[r] = sum_of(x + r * stride, width) / width;
}

static inline void largest_(REAL *out, const REAL *x, int64_t stride, int64_t rows, int64_t width)
{
    for (int64_t r = 0; r < rows; r++) {
        REAL most = x[r * stride];
        for (int64_t j = 1; j < width; j++)
            most = max_(most, x[r * stride + j]);
        out[r] = most;
    }
}

/* A call of a sweep: T steps, B elements of the batch, the heads of block-diagonal matrices, whether time runs from
   T - 1 to 0; then the sizes of the dimensions, and behind them the pointers to the tensors, 0 for what is not
   given. */
struct call {
    int64_t T, B, heads, backwards, threads, sizes[];
};

static inline void *const *tensors_of(const struct call *call, int64_t sizes)
{
    return (void *const *)(call->sizes + sizes);
}

struct scan {
    const struct call *call;
    void *const *tensors;
    struct product *products;
    int count;
    int64_t from, to; /* the units of a thread, where every unit is by itself */
};

/* Elements at hand in all steps that are worth a thread, which takes some microseconds to wake. */
#define THREAD 65536

static inline int64_t threads_of(int64_t most, int64_t threads)
{
    return threads < 1 ? 1 : threads < most ? threads : most;
}

typedef void rows_function(const struct scan *scan, int64_t first, int64_t rows, REAL *room);

/* Room for so many elements, from the start of a cache line on. */
static inline int64_t rounded(int64_t count) { return (count + 15) & ~(int64_t)15; }

static inline REAL *taken(REAL **room, int64_t count)
{
    REAL *found = *room;
    *room += rounded(count);
    return found;
}

/* Rows of what a state begins with, zeros where nothing is given. */
static inline REAL *begin(REAL *into, const void *from, int64_t first, int64_t rows, int64_t width)
{
    const size_t bytes = rows * width * sizeof(REAL);
    return from ? memcpy(into, (const REAL *)from + first * width, bytes) : memset(into, 0, bytes);
}

static inline void put(void *into, const REAL *from, int64_t first, int64_t rows, int64_t width)
{
    memcpy((REAL *)into + first * width, from, rows * width * sizeof(REAL));
}

/* The same of the units of a thread. */
static inline void put_units(void *into, const REAL *from, int64_t first, int64_t rows, int64_t width,
    const struct scan *scan)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy((REAL *)into + (first + r) * width + scan->from, from + r * width + scan->from,
            (scan->to - scan->from) * sizeof(REAL));
}

/* A row of a tensor, or another place where it is not wanted. */
static inline REAL *at(REAL *tensor, int64_t row, int64_t width, REAL *unwanted)
{
    return tensor ? tensor + row * width : unwanted;
}

/* Whether a step counts; without a mask all do. */
static inline int counts(const int32_t *mask, int64_t row) { return !mask || mask[row] > 0; }

/* The flags of the boundary between n steps and those that come after them, of the T + 1 that there are, by element. */
static inline const int32_t *boundary(const struct scan *scan, const int32_t *resets, int64_t n)
{
    return resets + (scan->call->backwards ? scan->call->T - n : n) * scan->call->B;
}

/* Before a step: the state of each sequence that begins with it is what resets return to, one of `total` elements. */
static inline void begun(REAL *state, const int32_t *flags, const REAL *given, int64_t total, int64_t rows,
    int64_t width)
{
    for (int64_t r = 0; r < rows; r++)
        if (flags[r] > 0)
            memcpy(state + r * width, given + r * total, width * sizeof(REAL));
}

/* Behind a step of an adjoint: what `begun` has returned before it has the gradient, and the state none. */
static inline void cut_units(REAL *state, const int32_t *flags, REAL *given, int64_t total, int64_t rows,
    int64_t width, int64_t from, int64_t to)
{
    for (int64_t r = 0; r < rows; r++)
        if (flags[r] > 0)
            for (int64_t j = from; j < to; j++) {
                given[r * total + j] += state[r * width + j];
                state[r * width + j] = 0;
            }
}

static inline void cut(REAL *state, const int32_t *flags, REAL *given, int64_t total, int64_t rows, int64_t width)
{
    cut_units(state, flags, given, total, rows, width, 0, width);
}

/* Units that threads divide among themselves: whole cache lines and vectors, so that a unit is computed in the same
   place of the same loop however many threads there are. Of fewer the loop around them takes as long as they do. */
#define UNITS 64

/* Run `rows` over the batch, by several threads. units: the elements of room that a row needs; once: those that a
   thread needs; rooms: how many there are in all; work: the elements that a step has at hand for a row; width: the
   units of a row where every one is by itself, so that threads that the batch has no row for have some of them, else
   0. 1 if there is no memory. */
static int run(const struct scan *scan, rows_function *rows, int64_t units, int64_t once, int rooms, int64_t work,
    int64_t width)
{
    const int64_t B = scan->call->B, threads = scan->call->threads, blocks = (width + UNITS - 1) / UNITS;
    const int64_t wanted = 1 + scan->call->T * B * work / THREAD;
    const int64_t shares = threads_of(wanted < B ? wanted : B, threads);
    const int64_t worth = wanted / shares < blocks ? wanted / shares : blocks;
    const int64_t slices = width ? threads_of(worth, threads / shares) : 1;
    const int64_t parts = shares * slices;
    int64_t packed = 0;
    for (int i = 0; i < scan->count; i++)
        packed += rounded(packed_size(&scan->products[i]));
    const int64_t most = (B + shares - 1) / shares, own = most * rounded(units) + rounded(once) + 16 * rooms;
    char *memory = malloc((packed + parts * own) * sizeof(REAL) + 64);
    if (!memory)
        return 1;
    REAL *room = (REAL *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    for (int i = 0; i < scan->count; i++)
        pack(&scan->products[i], taken(&room, packed_size(&scan->products[i])));
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
#endif
    for (int64_t part = 0; part < parts; part++) {
        const int64_t share = part / slices, first = B * share / shares, end = B * (share + 1) / shares;
        const int64_t slice = part % slices, to = blocks * (slice + 1) / slices * UNITS;
        struct scan of_part = *scan;
        of_part.from = blocks * slice / slices * UNITS;
        of_part.to = to < width ? to : width;
        rows(&of_part, first, end - first, room + part * own);
    }
    free(memory);
    return 0;
}
