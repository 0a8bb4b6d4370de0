/* Quantising gradients and updating momenta and masters with stochastic rounding: the kernels of
 * plain.py, byte for byte.
 *
 * Every element draws its random bits by its index, so that the partition over threads does not
 * matter. Loops are over blocks that stay in the first cache, one kind of lane in each loop, which
 * the compiler turns into vectors. Compile with -fwrapv.
 */
#include "taps.h"
#include "words.h"

#include <stdlib.h>

enum { BLOCK = 512 };

/* n words from index i on, each `step` after the one before; of 32 bits the lower ones are kept. */
#define WORDS(type)                                                                                \
    INLINE void words_##type(u64 key, u64 i, u64 step, type *out, i64 n)                           \
    {                                                                                              \
        u64 z = key + (i + 1) * GAMMA;                                                             \
        for (i64 j = 0; j < n; j++, z += step * GAMMA)                                             \
            out[j] = (type)finish(z);                                                              \
    }
WORDS(uint32_t)
WORDS(uint64_t)

/* floor((x + u) / 2**shift), u the lowest bits of the word; written so that no sum overflows. */
INLINE int32_t stochastic_int32_t(int32_t x, int shift, uint32_t word)
{
    const uint32_t mask = ((uint32_t)1 << shift) - 1;
    return (x >> shift) + (int32_t)((((uint32_t)x & mask) + (word & mask)) >> shift);
}
INLINE i64 stochastic_int64_t(i64 x, int shift, u64 word)
{
    const u64 mask = ((u64)1 << shift) - 1;
    return (x >> shift) + (i64)((((u64)x & mask) + (word & mask)) >> shift);
}

/* The same where the sum does not overflow. */
INLINE int32_t near_int32_t(int32_t x, int shift, uint32_t word)
{
    return (x + (int32_t)(word & (((uint32_t)1 << shift) - 1))) >> shift;
}
INLINE i64 near_int64_t(i64 x, int shift, u64 word)
{
    return (x + (i64)(word & (((u64)1 << shift) - 1))) >> shift;
}

/* The codes of n values whose indices are i, i + step, ... Extends low and high by the values. */
#define QUANTIZE_BLOCK(from, word, to)                                                             \
    INLINE void quantize_block_##from##_##to(const from *x, to *out, int shift, from limit,        \
                                             u64 key, u64 i, i64 n, i64 step, from *low,           \
                                             from *high)                                           \
    {                                                                                              \
        word bits[BLOCK];                                                                          \
        from a = *low, b = *high;                                                                  \
        words_##word(key, i, (u64)step, bits, n);                                                  \
        for (i64 j = 0; j < n; j++) {                                                              \
            const from v = x[j], q = stochastic_##from(v, shift, bits[j]);                         \
            a = v < a ? v : a;                                                                     \
            b = v > b ? v : b;                                                                     \
            out[j] = (to)clipped_##from(q, limit);                                                 \
        }                                                                                          \
        *low = a;                                                                                  \
        *high = b;                                                                                 \
    }

/* The largest magnitude of x; out are its codes after a right shift by `shift`, at most 31 (int64:
 * 63); -1 where memory is lacking. Gradients lie as (K, taps, C), codes as (K, C, taps); first: the
 * index of x[0]. x has `living` taps: tap t of out is at[t] of them, none if that is -1, and its
 * codes are 0; NULL: all are there.
 */
#define QUANTIZE(from, word, to)                                                                   \
    QUANTIZE_BLOCK(from, word, to)                                                                 \
    i64 quantize_gradient_##from##_##to(const from *x, to *out, i64 shift, i64 limit, u64 key,     \
                                        u64 first, i64 K, i64 C, i64 taps, i64 living,             \
                                        const i64 *at)                                             \
    {                                                                                              \
        from high = 0, low = 0;                                                                    \
        int failed = 0;                                                                            \
        if (taps == 1) { /* no order to be turned: rows as long as a block */                      \
            const i64 count = K * C;                                                               \
            _Pragma("omp parallel for schedule(static) reduction(max : high) reduction(min : low)") \
            for (i64 i = 0; i < count; i += BLOCK) quantize_block_##from##_##to(                   \
                x + i, out + i, (int)shift, (from)limit, key, first + (u64)i,                      \
                least(BLOCK, count - i), 1, &low, &high);                                          \
            return most(high, -(i64)low);                                                          \
        }                                                                                          \
        _Pragma("omp parallel reduction(max : high) reduction(min : low) reduction(| : failed)")   \
        {                                                                                          \
            to *codes = calloc(taps * BLOCK, sizeof *codes);                                       \
            failed = !codes;                                                                       \
            _Pragma("omp for collapse(2) schedule(static)")                                        \
            for (i64 k = 0; k < K; k++) for (i64 c = 0; c < C; c += BLOCK)                         \
            {                                                                                      \
                const i64 n = least(BLOCK, C - c), i = (k * C + c) * taps;                         \
                for (i64 t = 0; t < taps && codes; t++) {                                          \
                    const i64 tap = at ? at[t] : t;                                                \
                    if (tap >= 0)                                                                  \
                        quantize_block_##from##_##to(x + (k * living + tap) * C + c,               \
                                                     codes + t * BLOCK, (int)shift, (from)limit,   \
                                                     key, first + (u64)(i + t), n, taps, &low,     \
                                                     &high);                                       \
                }                                                                                  \
                if (codes)                                                                         \
                    taps_inside_##to(codes, BLOCK, n, taps, out + i);                              \
            }                                                                                      \
            free(codes);                                                                           \
        }                                                                                          \
        return failed ? -1 : most(high, -(i64)low);                                                \
    }
QUANTIZE(int32_t, uint32_t, int8_t)
QUANTIZE(int32_t, uint32_t, int16_t)
QUANTIZE(int64_t, uint64_t, int8_t)
QUANTIZE(int64_t, uint64_t, int16_t)

/* The three terms of a momentum: 7 momentum, gradient, master (or NULL). left >= 0 shifts a term to
 * the left, below 0 rounds it off.
 */
typedef struct {
    i64 left_m, left_g, left_w;
} places;

INLINE int32_t place_int32_t(int32_t v, i64 left)
{
    const int up = left > 0 ? (int)left : 0, down = left < 0 ? (int)-left : 0;
    return ((v << up) + ((1 << down) >> 1)) >> down;
}
INLINE i64 place_int64_t(i64 v, i64 left)
{
    const int up = left > 0 ? (int)left : 0, down = left < 0 ? (int)-left : 0;
    return ((v << up) + (((i64)1 << down) >> 1)) >> down;
}

#define TOTALS(wide, grad)                                                                         \
    INLINE void totals_##wide##_##grad(const int16_t *momentum, const grad *gradient,              \
                                       const int16_t *master, places p, wide *out, i64 n)          \
    {                                                                                              \
        for (i64 j = 0; j < n; j++)                                                                \
            out[j] = place_##wide(7 * (wide)momentum[j], p.left_m) +                               \
                     place_##wide(gradient[j], p.left_g);                                          \
        if (master)                                                                                \
            for (i64 j = 0; j < n; j++)                                                            \
                out[j] += place_##wide(master[j], p.left_w);                                       \
    }                                                                                              \
    /* The largest magnitudes: found = of momentum, gradient, master and total. */                 \
    static void update_maxima_##wide##_##grad(const int16_t *momentum, const grad *gradient,       \
                                              const int16_t *master, int decays,                   \
                                              const places *p, i64 *found, i64 count)              \
    {                                                                                              \
        wide high = 0, low = 0;                                                                    \
        int32_t m = 0, g = 0, w = 0;                                                               \
        _Pragma("omp parallel for schedule(static) reduction(max : high, m, g, w) reduction(min : low)") \
        for (i64 i = 0; i < count; i += BLOCK)                                                     \
        {                                                                                          \
            const i64 n = least(BLOCK, count - i);                                                 \
            wide total[BLOCK];                                                                     \
            totals_##wide##_##grad(momentum + i, gradient + i, decays ? master + i : NULL, *p,     \
                                   total, n);                                                      \
            for (i64 j = 0; j < n; j++) {                                                          \
                high = total[j] > high ? total[j] : high;                                          \
                low = total[j] < low ? total[j] : low;                                             \
            }                                                                                      \
            int16_t from[3] = {0}, to[3] = {0};                                                    \
            for (i64 j = 0; j < n; j++) {                                                          \
                from[0] = momentum[i + j] < from[0] ? momentum[i + j] : from[0];                   \
                to[0] = momentum[i + j] > to[0] ? momentum[i + j] : to[0];                         \
                from[1] = gradient[i + j] < from[1] ? gradient[i + j] : from[1];                   \
                to[1] = gradient[i + j] > to[1] ? gradient[i + j] : to[1];                         \
                from[2] = master[i + j] < from[2] ? master[i + j] : from[2];                       \
                to[2] = master[i + j] > to[2] ? master[i + j] : to[2];                             \
            }                                                                                      \
            m = (int32_t)most(m, most(to[0], -from[0]));                                           \
            g = (int32_t)most(g, most(to[1], -from[1]));                                           \
            w = (int32_t)most(w, most(to[2], -from[2]));                                           \
        }                                                                                          \
        found[0] = m;                                                                              \
        found[1] = g;                                                                              \
        found[2] = w;                                                                              \
        found[3] = most(high, -(i64)low);                                                          \
    }

/* How a master steps: master - SR(momentum rate), saturated; shift in [0, 48]. */
typedef struct {
    i64 rate, shift;
    u64 key;
} stride;

/* |momentum rate| < 2**23: the upper bits of a word decide nothing below a shift of 31. */
INLINE void step_block(int16_t *master, const int16_t *momentum, const stride *s, u64 i, i64 n)
{
    if (s->shift < 31) {
        uint32_t bits[BLOCK];
        const int32_t rate = (int32_t)s->rate;
        words_uint32_t(s->key, i, 1, bits, n);
        for (i64 j = 0; j < n; j++) {
            const int32_t v = master[j] - near_int32_t(momentum[j] * rate, (int)s->shift, bits[j]);
            master[j] = (int16_t)clipped_int32_t(v, 32767);
        }
    } else {
        uint64_t bits[BLOCK];
        words_uint64_t(s->key, i, 1, bits, n);
        for (i64 j = 0; j < n; j++) {
            const i64 v = master[j] - near_int64_t(momentum[j] * s->rate, (int)s->shift, bits[j]);
            master[j] = (int16_t)clipped_int64_t(v, 32767);
        }
    }
}

/* In place: momentum = SR(total), and where a stride is given, the master's step behind it. */
#define UPDATE(wide, word, grad)                                                                   \
    TOTALS(wide, grad)                                                                             \
    static void update_##wide##_##grad(int16_t *momentum, const grad *gradient, int16_t *master,   \
                                       int decays, const places *p, i64 shift, u64 key,            \
                                       const stride *step, i64 count)                              \
    {                                                                                              \
        _Pragma("omp parallel for schedule(static)") for (i64 i = 0; i < count; i += BLOCK)        \
        {                                                                                          \
            const i64 n = least(BLOCK, count - i);                                                 \
            wide total[BLOCK];                                                                     \
            word bits[BLOCK];                                                                      \
            totals_##wide##_##grad(momentum + i, gradient + i, decays ? master + i : NULL, *p,     \
                                   total, n);                                                      \
            words_##word(key, (u64)i, 1, bits, n);                                                 \
            for (i64 j = 0; j < n; j++) {                                                          \
                const wide v = near_##wide(total[j], (int)shift, bits[j]);                         \
                momentum[i + j] = (int16_t)clipped_##wide(v, 32767);                               \
            }                                                                                      \
            if (step)                                                                              \
                step_block(master + i, momentum + i, step, (u64)i, n);                             \
        }                                                                                          \
    }
UPDATE(int32_t, uint32_t, int8_t)
UPDATE(int32_t, uint32_t, int16_t)
UPDATE(int64_t, uint64_t, int8_t)
UPDATE(int64_t, uint64_t, int16_t)

/* A step that may leave 16 bits; shift below 0 is a left shift, of at most 32, above 48 no step. */
INLINE i64 stepped(int16_t master, int16_t momentum, const stride *s, u64 i)
{
    const i64 product = momentum * s->rate;
    if (s->shift > 48)
        return master;
    if (s->shift < 0)
        return master - (product << least(-s->shift, 32));
    return master - stochastic_int64_t(product, (int)s->shift, finish(s->key + (i + 1) * GAMMA));
}

/* found: the smallest and the largest stepped master, or 0. */
static void step_range(const int16_t *master, const int16_t *momentum, const stride *s, i64 *found,
                       i64 count)
{
    i64 high = 0, low = 0;
#pragma omp parallel for schedule(static) reduction(max : high) reduction(min : low)
    for (i64 i = 0; i < count; i++) {
        const i64 v = stepped(master[i], momentum[i], s, (u64)i);
        high = v > high ? v : high;
        low = v < low ? v : low;
    }
    found[0] = low;
    found[1] = high;
}

/* In place: the stepped masters, halved `halvings` times with ties up, which is one division rounded
 * up, and saturated.
 */
static void step_halved(int16_t *master, const int16_t *momentum, const stride *s, i64 halvings,
                        i64 count)
{
    const i64 rest = ((i64)1 << halvings) - 1;
#pragma omp parallel for schedule(static)
    for (i64 i = 0; i < count; i++) {
        const i64 v = (stepped(master[i], momentum[i], s, (u64)i) + rest) >> halvings;
        master[i] = (int16_t)clipped_int64_t(v, 32767);
    }
}

/* One parameter of a step: what update() reads and changes. */
typedef struct {
    int16_t *momentum;
    const void *gradient;
    int16_t *master;
    i64 count, bytes; /* elements, and bytes of a code of the gradient: 1 or 2 */
    i64 momentum_exponent, gradient_exponent, master_exponent;
    i64 decay; /* the master decays by 2**-decay; below 0 it does not, and keeps its exponent */
    i64 stream;
    i64 largest[3]; /* magnitudes of momentum, gradient, master: a guess, then what was found */
} parameter;

/* Where the terms of a momentum's sum meet: its exponent, and whether 32 bits hold it. `alive` is 0
 * where all terms are zero.
 */
typedef struct {
    i64 base, narrow, alive;
    places left;
} plan;

static plan plan_of(const parameter *p, const i64 largest[3])
{
    const i64 size[3] = {7 * largest[0], largest[1], p->decay < 0 ? 0 : largest[2]};
    const i64 exponent[3] = {p->momentum_exponent - 3, p->gradient_exponent,
                             p->master_exponent - p->decay};
    i64 top = INT64_MIN, base = INT64_MAX, sum = 0, left[3] = {0};
    for (int k = 0; k < 3; k++)
        if (size[k]) {
            top = most(top, exponent[k] + log2_ceil(size[k]));
            base = least(base, exponent[k]);
        }
    if (top == INT64_MIN)
        return (plan){.base = p->momentum_exponent, .narrow = 1};
    base = most(base, top - 40);
    for (int k = 0; k < 3; k++)
        if (size[k]) { /* rounded up; what is shifted to the left stays below 2**40 */
            left[k] = most(exponent[k] - base, -62);
            sum += left[k] >= 0 ? size[k] << left[k] : size[k] + ((i64)1 << least(-left[k], 40));
        }
    /* With room for what rounds a sum of 31 bits to 15. */
    return (plan){base, sum < ((i64)1 << 31) - (1 << 16), 1, {left[0], left[1], left[2]}};
}

static int same_plan(const plan *a, const plan *b)
{
    return a->base == b->base && a->narrow == b->narrow && a->alive == b->alive &&
           a->left.left_m == b->left.left_m && a->left.left_g == b->left.left_g &&
           a->left.left_w == b->left.left_w;
}

/* Call a function for the kind of a sum and of a gradient. */
#define BY_KIND(name, narrow, p, ...)                                                              \
    do {                                                                                           \
        if ((narrow) && (p)->bytes == 1)                                                           \
            name##_int32_t_int8_t((p)->momentum, (p)->gradient, (p)->master, __VA_ARGS__);         \
        else if (narrow)                                                                           \
            name##_int32_t_int16_t((p)->momentum, (p)->gradient, (p)->master, __VA_ARGS__);        \
        else if ((p)->bytes == 1)                                                                  \
            name##_int64_t_int8_t((p)->momentum, (p)->gradient, (p)->master, __VA_ARGS__);         \
        else                                                                                       \
            name##_int64_t_int16_t((p)->momentum, (p)->gradient, (p)->master, __VA_ARGS__);        \
    } while (0)

static void update_one(parameter *p, i64 rate, i64 rate_shift, u64 seed)
{
    const int decays = p->decay >= 0;
    i64 found[4];
    /* The pass that finds the sum's maximum needs those of the terms; they say if it was right, and
     * do not depend on the guess. */
    plan chosen = plan_of(p, p->largest);
    for (;;) {
        BY_KIND(update_maxima, chosen.narrow, p, decays, &chosen.left, found, p->count);
        const plan right = plan_of(p, found);
        if (same_plan(&right, &chosen))
            break;
        chosen = right;
    }
    memcpy(p->largest, found, sizeof p->largest);
    const i64 shift = most(log2_ceil(found[3]) - 15, 0);
    p->momentum_exponent = chosen.base + shift;
    const stride step = {rate, p->master_exponent - p->momentum_exponent + rate_shift,
                         seed ^ finish((u64)p->stream + 2)};
    /* No step is larger than this; the usual one leaves the master's exponent as it is. */
    const i64 reach = found[2] + (32767 * rate >> most(least(step.shift, 62), 0)) + 1;
    const int usual = step.shift >= 0 && step.shift <= 48 && (!decays || reach <= 32767);
    BY_KIND(update, chosen.narrow, p, decays, &chosen.left, shift,
            seed ^ finish((u64)p->stream + 1), usual ? &step : NULL, p->count);
    if (usual)
        return;
    i64 ends[2], halvings = 0;
    if (decays) {
        step_range(p->master, p->momentum, &step, ends, p->count);
        while (most(-ends[0], ends[1]) > 32767) {
            ends[0] = (ends[0] + 1) >> 1;
            ends[1] = (ends[1] + 1) >> 1;
            halvings++;
        }
    }
    step_halved(p->master, p->momentum, &step, halvings, p->count);
    p->master_exponent += halvings;
}

enum { SIDE = 1 << 14 }; /* elements below which parameters are taken side by side */

/* One step of `number` parameters with rate * 2**-rate_shift, in place. */
void update(parameter *p, i64 number, i64 rate, i64 rate_shift, u64 seed)
{
#pragma omp parallel for schedule(dynamic) if (number > 1)
    for (i64 i = 0; i < number; i++)
        if (p[i].count < SIDE)
            update_one(p + i, rate, rate_shift, seed);
    for (i64 i = 0; i < number; i++)
        if (p[i].count >= SIDE)
            update_one(p + i, rate, rate_shift, seed);
}

/* One vector of a step: what quantize_vectors() reads, and finds. */
typedef struct {
    const i64 *sums;
    int16_t *codes;
    i64 count, stream;
    i64 shift; /* the right shift that brings the largest magnitude into 16 bits */
    i64 largest;
} vector;

/* Quantise the gradients of `number` vectors, each with its own shift. */
void quantize_vectors(vector *v, i64 number, u64 seed)
{
#pragma omp parallel for schedule(dynamic)
    for (i64 k = 0; k < number; k++) {
        i64 high = 0, low = 0;
        for (i64 i = 0; i < v[k].count; i++) {
            high = most(high, v[k].sums[i]);
            low = least(low, v[k].sums[i]);
        }
        v[k].largest = most(high, -low);
        v[k].shift = most(log2_ceil(v[k].largest) - 15, 0);
        for (i64 i = 0; i < v[k].count; i += BLOCK)
            quantize_block_int64_t_int16_t(v[k].sums + i, v[k].codes + i, (int)v[k].shift, 32767,
                                           seed ^ finish((u64)v[k].stream), (u64)i,
                                           least(BLOCK, v[k].count - i), 1, &low, &high);
    }
}
