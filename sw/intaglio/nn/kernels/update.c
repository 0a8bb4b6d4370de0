/* The update of masters and momenta with stochastic rounding: the kernels of plain.py, byte for byte.
 *
 * Every element draws its random bits by its index, so that the partition over threads does not
 * matter. Compile with -fwrapv.
 */
#include "tile.h"

#include <stdlib.h>

/* SplitMix64 with a counter: word i of (key = seed ^ mix64(stream)). */
static inline u64 word(u64 key, u64 i)
{
    u64 z = key + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* |x| < 2**61, shift at most 61; the offset makes the shift one of unsigned numbers (see diffuse). */
static inline i64 stochastic(i64 x, i64 shift, u64 key, u64 i)
{
    const u64 offset = (u64)1 << 62;
    const u64 sum = (u64)x + (word(key, i) & (((u64)1 << shift) - 1)) + offset;
    return (i64)(sum >> shift) - (i64)(offset >> shift);
}

#define MAXIMUM(type)                                                                              \
    i64 maximum_##type(const type *x, i64 count)                                                   \
    {                                                                                              \
        type high = 0, low = 0;                                                                    \
        _Pragma("omp parallel for schedule(static) reduction(max : high) reduction(min : low)")    \
        for (i64 i = 0; i < count; i++)                                                            \
        {                                                                                          \
            high = x[i] > high ? x[i] : high;                                                      \
            low = x[i] < low ? x[i] : low;                                                         \
        }                                                                                          \
        return most(high, -(i64)low);                                                              \
    }
MAXIMUM(int16_t)
MAXIMUM(int32_t)
MAXIMUM(int64_t)

/* Gradients lie as (K, taps, C), masters and momenta as (K, C, taps): of one k, in L2, in turn.
 *
 * shift 0 is exact and draws nothing that matters. Returns -1 where memory is lacking.
 */
#define QUANTIZE(type)                                                                             \
    i64 quantize_gradient_##type(const type *x, int16_t *out, i64 shift, i64 limit, u64 key, i64 K, \
                                 i64 C, i64 taps)                                                  \
    {                                                                                              \
        i64 top = 0;                                                                               \
        int failed = 0;                                                                            \
        _Pragma("omp parallel reduction(max : top) reduction(| : failed)")                         \
        {                                                                                          \
            type *turned = taps > 1 ? malloc(C * taps * sizeof *turned) : NULL;                    \
            failed = taps > 1 && !turned;                                                          \
            _Pragma("omp for schedule(static)") for (i64 k = 0; k < K; k++)                        \
            {                                                                                      \
                const type *v = x + k * C * taps;                                                  \
                if (failed)                                                                        \
                    continue;                                                                      \
                if (taps > 1) {                                                                    \
                    for (i64 c = 0; c < C; c++)                                                    \
                        for (i64 t = 0; t < taps; t++)                                             \
                            turned[c * taps + t] = v[t * C + c];                                   \
                    v = turned;                                                                    \
                }                                                                                  \
                int16_t *y = out + k * C * taps;                                                   \
                for (i64 i = 0; i < C * taps; i++) {                                               \
                    i64 q = stochastic(v[i], shift, key, (u64)(k * C * taps + i));                 \
                    q = q < -limit ? -limit : q > limit ? limit : q;                               \
                    y[i] = (int16_t)q;                                                             \
                    const i64 a = q < 0 ? -q : q;                                                  \
                    top = a > top ? a : top;                                                       \
                }                                                                                  \
            }                                                                                      \
            free(turned);                                                                          \
        }                                                                                          \
        return failed ? -1 : top;                                                                  \
    }
QUANTIZE(int32_t)
QUANTIZE(int64_t)

/* left[k] >= 0 shifts term k to the left, below 0 rounds it off; a dead term has scale 0. */
static inline i64 place(i64 v, i64 left)
{
    return left >= 0 ? v << left : (v + (((i64)1 << -left) >> 1)) >> -left;
}

i64 momentum_sum_int64_t(const int16_t *momentum, i64 scale, i64 left_m, const int16_t *gradient,
                         i64 left_g, const int16_t *master, i64 left_w, i64 *out, i64 count)
{
    i64 top = 0;
#pragma omp parallel for schedule(static) reduction(max : top)
    for (i64 i = 0; i < count; i++) {
        i64 v = place(momentum[i] * scale, left_m) + place(gradient[i], left_g);
        if (master)
            v += place(master[i], left_w);
        out[i] = v;
        const i64 a = v < 0 ? -v : v;
        top = a > top ? a : top;
    }
    return top;
}

/* The same where no sum leaves 31 bits; a right shift rounds and drops at most 31 bits. */
i64 momentum_sum_int32_t(const int16_t *momentum, i64 scale, i64 left_m, const int16_t *gradient,
                         i64 left_g, const int16_t *master, i64 left_w, int32_t *out, i64 count)
{
    const int32_t up_m = left_m > 0 ? left_m : 0, down_m = left_m < 0 ? -left_m : 0;
    const int32_t up_g = left_g > 0 ? left_g : 0, down_g = left_g < 0 ? -left_g : 0;
    const int32_t up_w = left_w > 0 ? left_w : 0, down_w = left_w < 0 ? -left_w : 0;
    const int32_t half_m = (1 << down_m) >> 1, half_g = (1 << down_g) >> 1;
    const int32_t half_w = (1 << down_w) >> 1, s = (int32_t)scale;
    int32_t high = 0, low = 0;
    if (master) {
#pragma omp parallel for schedule(static) reduction(max : high) reduction(min : low)
        for (i64 i = 0; i < count; i++) {
            const int32_t v = (((momentum[i] * s << up_m) + half_m) >> down_m) +
                              (((gradient[i] << up_g) + half_g) >> down_g) +
                              (((master[i] << up_w) + half_w) >> down_w);
            out[i] = v;
            high = v > high ? v : high;
            low = v < low ? v : low;
        }
    } else {
#pragma omp parallel for schedule(static) reduction(max : high) reduction(min : low)
        for (i64 i = 0; i < count; i++) {
            const int32_t v = (((momentum[i] * s << up_m) + half_m) >> down_m) +
                              (((gradient[i] << up_g) + half_g) >> down_g);
            out[i] = v;
            high = v > high ? v : high;
            low = v < low ? v : low;
        }
    }
    return most(high, -(i64)low);
}

#define ROUND(type)                                                                                \
    void round_master_##type(const type *x, int16_t *out, i64 shift, u64 key, i64 count)           \
    {                                                                                              \
        _Pragma("omp parallel for schedule(static)") for (i64 i = 0; i < count; i++)               \
        {                                                                                          \
            i64 v = stochastic(x[i], shift, key, (u64)i);                                          \
            out[i] = (int16_t)(v < -32767 ? -32767 : v > 32767 ? 32767 : v);                       \
        }                                                                                          \
    }
ROUND(int32_t)
ROUND(int64_t)

/* As weight_step below, saturated: the usual case, in which nothing leaves 16 bits. */
i64 weight_step_saturated(const int16_t *master, const int16_t *momentum, i64 rate, i64 shift,
                          u64 key, int16_t *out, i64 count)
{
    i64 top = 0;
#pragma omp parallel for schedule(static) reduction(max : top)
    for (i64 i = 0; i < count; i++) {
        const i64 v = master[i] - stochastic(momentum[i] * rate, shift, key, (u64)i);
        out[i] = (int16_t)(v < -32767 ? -32767 : v > 32767 ? 32767 : v);
        const i64 a = v < 0 ? -v : v;
        top = a > top ? a : top;
    }
    return top;
}

/* out = master - SR(momentum * rate); shift below 0 is a left shift, above 48 no update. */
i64 weight_step(const int16_t *master, const int16_t *momentum, i64 rate, i64 shift, u64 key,
                int32_t *out, i64 count)
{
    i64 top = 0;
#pragma omp parallel for schedule(static) reduction(max : top)
    for (i64 i = 0; i < count; i++) {
        const i64 product = momentum[i] * rate;
        i64 delta = 0;
        if (shift >= 0 && shift <= 48)
            delta = stochastic(product, shift, key, (u64)i);
        else if (shift < 0)
            delta = product << least(-shift, 32);
        i64 v = master[i] - delta;
        v = v < -((i64)1 << 30) ? -((i64)1 << 30) : v > ((i64)1 << 30) ? (i64)1 << 30 : v;
        out[i] = (int32_t)v;
        const i64 a = v < 0 ? -v : v;
        top = a > top ? a : top;
    }
    return top;
}

void clip_master(const int32_t *x, int16_t *out, i64 count)
{
    for (i64 i = 0; i < count; i++)
        out[i] = (int16_t)(x[i] < -32767 ? -32767 : x[i] > 32767 ? 32767 : x[i]);
}

i64 halve(int32_t *x, i64 count)
{
    i64 top = 0;
    for (i64 i = 0; i < count; i++) {
        x[i] = (x[i] + 1) >> 1;
        top = most(top, x[i] < 0 ? -x[i] : x[i]);
    }
    return top;
}
