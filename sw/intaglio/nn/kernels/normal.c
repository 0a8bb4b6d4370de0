/* Batch norm and the quantiser of errors, which run along the pixels of maps (N, H, W, C): the kernels
 * of plain.py, byte for byte.
 *
 * Sums are exact integers, so that the partition over threads does not matter. Compile with -fwrapv.
 */
#include "lanes.h"
#include "norms.h"
#include "windows.h"

#include <stdlib.h>

#define LIMIT 127

enum { DEEP = 16 }; /* pixels of a strip: their maps stay in the second cache between strips */

/* Fetch what the strip below will read, or write: processors do not guess the order of strips. */
INLINE void soon(const void *x) { __builtin_prefetch(x, 0, 2); }
INLINE void soon_written(void *x) { __builtin_prefetch(x, 1, 2); }

/* Add a strip's channels, or their distances to a mean, or what of these is beyond a bound, to low and
 * high: a distance fits 32 bits without sign, and goes in two parts of 16 bits.
 */
INLINE void sum_strip(const int32_t *acc, const int32_t *mean, const uint32_t *bound, i64 rows,
                      i64 C, int32_t *low, int32_t *high, i64 count)
{
    const lanes zero = {0}, m = mean ? load_int32_t(mean, count) : zero;
    const lanes limit = bound ? load_int32_t((const int32_t *)bound, count) : zero;
    const unsigned_lanes b = (unsigned_lanes)limit;
    lanes l = load_int32_t(low, LANES), h = load_int32_t(high, LANES);
    for (i64 i = 0; i < rows; i++) {
        soon(acc + (i + DEEP) * C);
        const lanes a = load_int32_t(acc + i * C, count);
        if (mean) {
            unsigned_lanes d = (unsigned_lanes)larger(a, m) - (unsigned_lanes)smaller(a, m);
            if (bound)
                d = (d - b) & (unsigned_lanes)(d > b);
            l += (lanes)(d & 0xFFFF);
            h += (lanes)(d >> 16);
        } else {
            l += a & 0xFFFF;
            h += a >> 16;
        }
    }
    store_int32_t(l, low, LANES);
    store_int32_t(h, high, LANES);
}

/* The sums of M accumulators or, where a mean is given, of their distances to it or, where a bound is
 * given, too, of what of the distances is beyond it.
 */
INLINE int channel_sums(const int32_t *acc, const i64 *mean, const i64 *bound, i64 *total, i64 M,
                        i64 C)
{
    const i64 wide = groups_of(C, LANES) * LANES;
    int failed = 0;
    memset(total, 0, C * sizeof *total);
#pragma omp parallel reduction(| : failed)
    {
        int32_t *work = calloc(3 * wide, sizeof *work);
        int32_t *const low = work, *const high = work + wide, *const middle = work + 2 * wide;
        uint32_t *least_counted = calloc(wide, sizeof *least_counted);
        i64 *mine = calloc(C, sizeof *mine), added = 0;
        failed = !work || !least_counted || !mine;
        for (i64 c = 0; c < C && mean && !failed; c++) {
            middle[c] = (int32_t)mean[c];
            least_counted[c] = bound ? (uint32_t)least(bound[c], UINT32_MAX) : 0;
        }
#pragma omp for schedule(static)
        for (i64 i = 0; i < M; i += DEEP) {
            const i64 rows = least(DEEP, M - i);
            for (i64 c = 0; c < C && !failed; c += LANES) {
                const int32_t *at = acc + i * C + c, *m = mean ? middle + c : NULL;
                const uint32_t *b = bound ? least_counted + c : NULL;
                if (c + LANES <= C)
                    sum_strip(at, m, b, rows, C, low + c, high + c, LANES);
                else
                    sum_strip(at, m, b, rows, C, low + c, high + c, C - c);
            }
            added += rows;
            if (added >= 1 << 14) { /* 2**15 rows of 16 bits fit 32 with sign */
                for (i64 c = 0; c < C && !failed; c++)
                    mine[c] += low[c] + ((i64)high[c] << 16);
                if (!failed)
                    memset(low, 0, 2 * wide * sizeof *low);
                added = 0;
            }
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed; c++)
            total[c] += mine[c] + low[c] + ((i64)high[c] << 16);
        free(work);
        free(least_counted);
        free(mine);
    }
    return failed;
}

void round_means(i64 *total, i64 count, i64 C);

/* The means of M accumulators and the sums of their distances to them, at least M; with std those that
 * count as a standard deviation, std_deviation() of the spec. Returns 1 where memory is lacking.
 */
int batch_norm_statistics(const int32_t *acc, i64 *mean, i64 *deviation, i64 std, i64 M, i64 C)
{
    if (channel_sums(acc, NULL, NULL, mean, M, C))
        return 1;
    round_means(mean, M, C);
    if (channel_sums(acc, mean, NULL, deviation, M, C))
        return 1;
    for (i64 c = 0; c < C; c++)
        deviation[c] = most(deviation[c], M);
    if (!std)
        return 0;
    i64 *const bound = malloc(2 * C * sizeof *bound), *const tail = bound + C;
    int failed = !bound;
    for (i64 c = 0; c < C && !failed; c++)
        bound[c] = 2 * deviation[c];
    if (!failed) {
        round_means(bound, M, C);
        failed = channel_sums(acc, mean, bound, tail, M, C);
    }
    for (i64 c = 0; c < C && !failed; c++)
        deviation[c] = 9 * (deviation[c] + 2 * tail[c]) >> 3;
    free(bound);
    return failed;
}

/* What normalising needs of a channel. mantissa f in [2**15, 2**16], right = shift - 12 in [0, 30].
 *
 * xhat = (d f + half) >> right with d = a - mean, saturated to 16 bits. Beyond limit =
 * (2**15 << right) / f + 1 xhat is at its bound, so that d may be limited to it first, that is a to
 * [low, high]; then |d| f <= 2**(15 + right) + f. With k = max(right - 15, 0) <= 15 and
 * d = 2**k dh + dl, 0 <= dl < 2**k, all fits 32 bits:
 *
 *   (d f + half) >> right = (dh f + ((dl f + half) >> k)) >> (right - k)
 *
 * dl f + half <= (2**15 - 1) 2**16 + 2**29 < 2**32 without sign, and |dh| f <= |d| f / 2**k + f,
 * below 2**30 + 2**18; the shifted part is below 2**16 + 2**14.
 */
typedef struct {
    int32_t *mean, *low, *high, *factor, *fine, *half, *coarse, *gamma, *beta, *signs;
} normal;

INLINE void normalize_strip(const int32_t *acc, const normal *v, i64 at, i64 rows, i64 C,
                            i64 pitch, i64 out_shift, const int8_t *residual, i64 residual_shift,
                            i64 least_y, int16_t *xhat, int8_t *out, i64 count, int counted)
{
    const lanes zero = {0}, mean = load_int32_t(v->mean + at, LANES);
    const lanes low = load_int32_t(v->low + at, LANES), high = load_int32_t(v->high + at, LANES);
    const lanes factor = load_int32_t(v->factor + at, LANES);
    const lanes fine = load_int32_t(v->fine + at, LANES), mask = ((zero + 1) << fine) - 1;
    const lanes half = load_int32_t(v->half + at, LANES);
    const lanes coarse = load_int32_t(v->coarse + at, LANES);
    const lanes gamma = load_int32_t(v->gamma + at, LANES);
    const lanes beta = load_int32_t(v->beta + at, LANES);
    const lanes bottom = zero + (int32_t)least_y;
    lanes signs = load_int32_t(v->signs + at, LANES);
    for (i64 i = 0; i < rows; i++) {
        soon(acc + (i + DEEP) * C);
        soon_written(xhat + (i + DEEP) * pitch);
        soon_written(out + (i + DEEP) * pitch);
        const lanes d = between(load_int32_t(acc + i * C, count), low, high) - mean;
        const unsigned_lanes rest = (unsigned_lanes)((d & mask) * factor + half);
        lanes x = ((d >> fine) * factor + (lanes)(rest >> (unsigned_lanes)fine)) >> coarse;
        x = between(x, zero - 32767, zero + 32767);
        store_int16_t(x, xhat + i * pitch, count);
        if (counted)
            signs += sign(x);
        lanes y = x * gamma + beta;
        if (residual) {
            soon(residual + (i + DEEP) * pitch);
            y += load_int8_t(residual + i * pitch, count) << (int32_t)residual_shift;
        }
        store_int8_t(between(y >> (int32_t)out_shift, bottom, zero + LIMIT), out + i * pitch, count);
    }
    store_int32_t(signs, v->signs + at, LANES);
}

static int32_t saturated(i64 v)
{
    return (int32_t)(v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v);
}

/* mantissa in [2**15, 2**16], shift at least 12; signs, if any, get those of xhat. The accumulators
 * are (M, C), the maps have rows of `pitch` channels. Returns 1 where memory is lacking, 2 where a
 * shift is beyond 42: deviations of 2**28 and more, differences that saturate count.
 */
static int normalize(const int32_t *acc, const i64 *mean, const i64 *mantissa, const i64 *shift,
                     const i64 *gamma, const i64 *beta, i64 out_shift, const int8_t *residual,
                     i64 residual_shift, i64 low, int16_t *xhat, int8_t *out, i64 *signs, i64 M,
                     i64 C, i64 pitch)
{
    const i64 wide = groups_of(C, LANES) * LANES;
    int failed = 0;
    for (i64 c = 0; c < C; c++)
        if (shift[c] > 42)
            return 2;
    if (signs)
        memset(signs, 0, C * sizeof *signs);
#pragma omp parallel reduction(| : failed)
    {
        int32_t *work = calloc(10 * wide, sizeof *work);
        const normal v = {work,            work + wide,     work + 2 * wide, work + 3 * wide,
                          work + 4 * wide, work + 5 * wide, work + 6 * wide, work + 7 * wide,
                          work + 8 * wide, work + 9 * wide};
        failed = !work;
        for (i64 c = 0; c < C && !failed; c++) {
            const i64 right = shift[c] - 12, k = most(right - 15, 0);
            const i64 limit = ((i64)32768 << right) / mantissa[c] + 1;
            v.mean[c] = (int32_t)mean[c];
            v.low[c] = saturated(mean[c] - limit);
            v.high[c] = saturated(mean[c] + limit);
            v.factor[c] = (int32_t)mantissa[c];
            v.fine[c] = (int32_t)k;
            v.half[c] = (int32_t)(((i64)1 << right) >> 1);
            v.coarse[c] = (int32_t)(right - k);
            v.gamma[c] = (int32_t)gamma[c];
            v.beta[c] = (int32_t)((beta[c] << 12) + (((i64)1 << out_shift) >> 1));
        }
#pragma omp for schedule(static)
        for (i64 i = 0; i < M; i += DEEP) {
            const i64 rows = least(DEEP, M - i);
            for (i64 c = 0; c < C && !failed; c += LANES) {
                const int32_t *from = acc + i * C + c;
                const i64 at = i * pitch + c;
                const int8_t *z = residual ? residual + at : NULL;
                if (c + LANES <= C)
                    normalize_strip(from, &v, c, rows, C, pitch, out_shift, z, residual_shift, low,
                                    xhat + at, out + at, LANES, signs != NULL);
                else
                    normalize_strip(from, &v, c, rows, C, pitch, out_shift, z, residual_shift, low,
                                    xhat + at, out + at, C - c, signs != NULL);
            }
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed && signs; c++)
            signs[c] += v.signs[c]; /* fewer than 2**31 rows */
        free(work);
    }
    return failed;
}

/* As normalize(), of all channels. */
i64 batch_norm_normalize(const int32_t *acc, const i64 *mean, const i64 *mantissa,
                         const i64 *shift, const i64 *gamma, const i64 *beta, i64 out_shift,
                         const int8_t *residual, i64 residual_shift, i64 low, int16_t *xhat,
                         int8_t *out, i64 *signs, i64 M, i64 C)
{
    return normalize(acc, mean, mantissa, shift, gamma, beta, out_shift, residual, residual_shift,
                     low, xhat, out, signs, M, C, C);
}

/* One summand of a wide error: bytes is the width of its codes; strides count elements. */
typedef struct {
    const void *codes;
    i64 bytes, shift, stride_n, stride_h, stride_w;
} term;

#define GATHER(type)                                                                               \
    do {                                                                                           \
        const type *v = (const type *)t->codes + at;                                               \
        if (first)                                                                                 \
            for (i64 c = 0; c < C; c++)                                                            \
                row[c] = (i64)v[c] << t->shift;                                                    \
        else                                                                                       \
            for (i64 c = 0; c < C; c++)                                                            \
                row[c] += (i64)v[c] << t->shift;                                                   \
    } while (0)

static void gather(const term *terms, i64 count, i64 n, i64 h, i64 w, i64 C, i64 *row)
{
    for (i64 k = 0; k < count; k++) {
        const term *t = terms + k;
        const i64 at = n * t->stride_n + h * t->stride_h + w * t->stride_w;
        const int first = k == 0;
        switch (t->bytes) {
        case 1: GATHER(int8_t); break;
        case 2: GATHER(int16_t); break;
        case 4: GATHER(int32_t); break;
        default: GATHER(int64_t);
        }
    }
}

/* Diffuse row into y. With S the running sum, y = round(S) - round(S before) needs of S only what
 * rounding left: rest = (S + half) mod 2**shift, in [0, 2**shift). It starts at half.
 *
 * Rows are below 2**61 and shift at most 61. The offset 2**62 makes the shift one of unsigned
 * numbers, which AVX2 has.
 */
static inline void diffuse(const i64 *row, i64 *rest, int8_t *y, i64 shift, i64 *top, i64 C)
{
    const u64 offset = (u64)1 << 62;
    const i64 mask = ((i64)1 << shift) - 1, zero = (i64)(offset >> shift);
    for (i64 c = 0; c < C; c++) {
        const i64 x = rest[c] + row[c], a = row[c] < 0 ? -row[c] : row[c];
        const i64 q = (i64)(((u64)x + offset) >> shift) - zero;
        rest[c] = x & mask;
        top[c] = a > top[c] ? a : top[c];
        y[c] = (int8_t)(q < -LIMIT ? -LIMIT : q > LIMIT ? LIMIT : q);
    }
}

/* Channels [from, to) of one scan. Less than four scans are cut, so that all threads have some; a
 * part has whole lines of codes.
 */
typedef struct {
    i64 scan, from, to;
} part;

static i64 parts_of(i64 scans, i64 C) { return least(groups_of(C, 64), groups_of(4, most(scans, 1))); }

static part part_at(i64 task, i64 parts, i64 C)
{
    const i64 width = groups_of(groups_of(C, 64), parts) * 64, from = least(C, task % parts * width);
    return (part){task / parts, from, least(C, from + width)};
}

/* What a scan keeps of each channel. rest is what rounding left; errors, if xhat is given, is the sum of
 * the codes, and that of their products with xhat has two parts, 2**16 * coarse + fine.
 */
typedef struct {
    int32_t *rest, *high, *low, *errors, *fine, *coarse;
} scanned;

INLINE void add_lanes(lanes v, int32_t *total)
{
    store_int32_t(load_int32_t(total, LANES) + v, total, LANES);
}

enum { SUMMED = 1 << 18 }; /* pixels after which the sums of a scan might leave 32 bits */

/* Move the sums of the channels [from, to). */
static void take_sums(const scanned *own, i64 from, i64 to, i64 *errors, i64 *products)
{
    for (i64 c = from; c < to; c++) {
        errors[c] += own->errors[c];
        products[c] += own->fine[c] + ((i64)own->coarse[c] << 16);
        own->errors[c] = own->fine[c] = own->coarse[c] = 0;
    }
}

/* A scan in 32 bits: |row| <= 2**30 and shift <= 29. The channels of the strip start at c. */
INLINE void diffuse_strip(const lanes *row, i64 rows, i64 C, i64 shift, const int8_t *y, int relu,
                          const int16_t *xhat, int8_t *out, const scanned *own, i64 c, i64 count)
{
    const lanes zero = {0};
    lanes errors = zero, products = zero; /* DEEP * 127 * 2**15 < 2**31 */
    int32_t *const rest = own->rest + c, *const high = own->high + c, *const low = own->low + c;
    const int32_t right = (int32_t)shift, below = (1 << right) - 1;
    lanes r = load_int32_t(rest, LANES), h = load_int32_t(high, LANES), l = load_int32_t(low, LANES);
    for (i64 i = 0; i < rows; i++) {
        lanes v = row[i];
        soon_written(out + (i + DEEP) * C);
        if (y) { /* through_saturation(): a sign bit says that both of its operands are negative */
            soon(y + (i + DEEP) * C);
            const lanes made = load_int8_t(y + i * C, count);
            v &= ~(((LIMIT - 1 - made) & v) >> 31);
            v &= relu ? (zero - made) >> 31 : ~(((LIMIT - 1 + made) & -v) >> 31);
        }
        r += v;
        h = larger(h, v);
        l = smaller(l, v);
        const lanes code = between(r >> right, zero - LIMIT, zero + LIMIT);
        store_int8_t(code, out + i * C, count);
        r &= below;
        if (xhat) {
            soon(xhat + (i + DEEP) * C);
            errors += code;
            products += code * load_int16_t(xhat + i * C, count);
        }
    }
    store_int32_t(r, rest, LANES);
    store_int32_t(h, high, LANES);
    store_int32_t(l, low, LANES);
    if (xhat) {
        add_lanes(errors, own->errors + c);
        add_lanes(products & 0xFFFF, own->fine + c);
        add_lanes(products >> 16, own->coarse + c);
    }
}

/* Rows of a strip: the sum of the terms. Not all zero: one of at most four leaves 2**28. */
#define GATHER_STRIP(type)                                                                         \
    for (i64 i = 0; i < rows; i++) {                                                               \
        const type *code = (const type *)t->codes + at[k][i] + c;                                  \
        const lanes v = load_##type(code, count);                                                  \
        soon(code + DEEP * t->stride_w);                                                           \
        high = larger(high, v);                                                                    \
        low = smaller(low, v);                                                                     \
        row[i] = k ? row[i] + (v << shift) : v << shift;                                           \
    }

INLINE lanes gather_strip(const term *terms, i64 number, const i64 at[][DEEP], i64 c, i64 rows,
                          lanes *row, i64 count)
{
    const lanes zero = {0};
    lanes bad = zero;
    for (i64 k = 0; k < number; k++) {
        const term *t = terms + k;
        const int32_t shift = (int32_t)t->shift, bound = (1 << 28) >> shift;
        lanes high = zero, low = zero;
        switch (t->bytes) {
        case 1: GATHER_STRIP(int8_t); break;
        case 2: GATHER_STRIP(int16_t); break;
        default: GATHER_STRIP(int32_t);
        }
        bad |= (high > bound) | (low < -bound);
    }
    return bad;
}

enum { NARROW = 4 }; /* terms whose sum fits 32 bits */

static int narrow(const term *terms, i64 count, i64 shift)
{
    int fits = count <= NARROW && shift <= 29;
    for (i64 k = 0; k < count; k++)
        fits &= terms[k].bytes <= 4 && terms[k].shift <= 28;
    return fits;
}

/* quantize_error below in 32 bits; -1 where a sum may leave them. With xhat the sums of the codes and
 * of their products with it are added to those of the channels.
 */
static i64 quantize_narrow(const term *terms, i64 count, const int8_t *y, i64 low,
                           const int16_t *xhat, i64 shift, int8_t *out, i64 *error_sum,
                           i64 *product_sum, i64 scans, i64 pixels, i64 W, i64 C)
{
    const i64 parts = parts_of(scans, C), wide = groups_of(C, LANES) * LANES;
    i64 maximum = 0;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(max : maximum) reduction(| : failed)
    for (i64 task = 0; task < scans * parts; task++) {
        const part own = part_at(task, parts, C);
        i64 *work = calloc(5 * wide, sizeof *work);
        int32_t *const state = (int32_t *)(work + 2 * wide);
        const scanned mine = {state,            state + wide,     state + 2 * wide,
                              state + 3 * wide, state + 4 * wide, state + 5 * wide};
        lanes bad = {0};
        for (i64 c = 0; c < wide && work; c++)
            mine.rest[c] = (1 << shift) >> 1;
        for (i64 p = 0; p < pixels && work; p += DEEP) {
            const i64 rows = least(DEEP, pixels - p), start = (own.scan * pixels + p) * C;
            if (p % SUMMED == 0)
                take_sums(&mine, own.from, own.to, work, work + wide);
            i64 at[NARROW][DEEP];
            for (i64 k = 0; k < count; k++)
                for (i64 i = 0; i < rows; i++)
                    at[k][i] = W ? own.scan * terms[k].stride_n + (p + i) / W * terms[k].stride_h +
                                       (p + i) % W * terms[k].stride_w
                                 : (p + i) * terms[k].stride_n;
            for (i64 c = own.from; c < own.to; c += LANES) {
                lanes row[DEEP];
                const int8_t *z = y ? y + start + c : NULL;
                const int16_t *x = xhat ? xhat + start + c : NULL;
                int8_t *to = out + start + c;
                if (c + LANES <= C) {
                    bad |= gather_strip(terms, count, at, c, rows, row, LANES);
                    diffuse_strip(row, rows, C, shift, z, low == 0, x, to, &mine, c, LANES);
                } else {
                    bad |= gather_strip(terms, count, at, c, rows, row, C - c);
                    diffuse_strip(row, rows, C, shift, z, low == 0, x, to, &mine, c, C - c);
                }
            }
        }
        for (i64 c = own.from; c < own.to && work; c++)
            maximum = most(maximum, most(mine.high[c], -(i64)mine.low[c]));
        if (xhat && work) {
#pragma omp critical
            {
                for (i64 c = own.from; c < own.to; c++) {
                    error_sum[c] += work[c];
                    product_sum[c] += work[wide + c];
                }
                take_sums(&mine, own.from, own.to, error_sum, product_sum);
            }
        }
        for (int i = 0; i < LANES; i++)
            failed |= bad[i] != 0;
        failed |= !work; /* what needs less memory may go well */
        free(work);
    }
    return failed ? -1 : maximum;
}

/* The scan runs along the pixels of an image, in 1x1 maps along the images. y: what a saturation to
 * [low, LIMIT] made, or NULL. Returns the largest magnitude, -1 where memory is lacking.
 */
i64 quantize_error(const term *terms, i64 count, const int8_t *y, i64 low, i64 shift, int8_t *out,
                   i64 N, i64 H, i64 W, i64 C)
{
    const i64 scans = H * W == 1 ? 1 : N, pixels = H * W == 1 ? N : H * W;
    i64 maximum = 0;
    if (narrow(terms, count, shift)) {
        maximum = quantize_narrow(terms, count, y, low, NULL, shift, out, NULL, NULL, scans, pixels,
                                  H * W == 1 ? 0 : W, C);
        if (maximum >= 0)
            return maximum;
        maximum = 0;
    }
    int failed = 0;
#pragma omp parallel for schedule(static) reduction(max : maximum) reduction(| : failed)
    for (i64 k = 0; k < scans; k++) {
        i64 *work = calloc(3 * C, sizeof *work);
        i64 *row = work, *rest = work + C, *top = work + 2 * C;
        failed |= !work;
        for (i64 c = 0; c < C && work; c++)
            rest[c] = ((i64)1 << shift) >> 1;
        for (i64 p = 0; p < pixels && work; p++) {
            const i64 at = (k * pixels + p) * C;
            if (H * W == 1)
                gather(terms, count, p, 0, 0, C, row);
            else
                gather(terms, count, k, p / W, p % W, C, row);
            for (i64 c = 0; y && c < C; c++)
                row[c] = through_saturation(row[c], y[at + c], low);
            diffuse(row, rest, out + at, shift, top, C);
        }
        for (i64 c = 0; c < C && work; c++)
            maximum = most(maximum, top[c]);
        free(work);
    }
    return failed ? -1 : maximum;
}

/* Returns 1 where memory is lacking. */
int error_sums(const int8_t *error, i64 *total, i64 M, i64 C)
{
    int failed = 0;
    memset(total, 0, C * sizeof *total);
#pragma omp parallel reduction(| : failed)
    {
        i64 *mine = calloc(C, sizeof *mine);
        int16_t *part = malloc(C * sizeof *part);
        failed = !mine || !part;
#pragma omp for schedule(static)
        for (i64 block = 0; block < M; block += 252) {
            if (failed)
                continue;
            memset(part, 0, C * sizeof *part); /* 252 * 128 < 2**15 */
            const i64 end = least(block + 252, M);
            i64 i = block;
            for (; i + 4 <= end; i += 4) {
                const int8_t *e = error + i * C;
                for (i64 c = 0; c < C; c++)
                    part[c] += (int16_t)(e[c] + e[C + c] + e[2 * C + c] + e[3 * C + c]);
            }
            for (; i < end; i++)
                for (i64 c = 0; c < C; c++)
                    part[c] += error[i * C + c];
            for (i64 c = 0; c < C; c++)
                mine[c] += part[c];
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed; c++)
            total[c] += mine[c];
        free(mine);
        free(part);
    }
    return failed;
}

/* Returns 1 where memory is lacking. */
int batch_norm_sums(const int8_t *error, const int16_t *xhat, i64 *error_sum, i64 *product_sum,
                    i64 M, i64 C)
{
    int failed = 0;
    memset(error_sum, 0, C * sizeof *error_sum);
    memset(product_sum, 0, C * sizeof *product_sum);
#pragma omp parallel reduction(| : failed)
    {
        i64 *mine = calloc(2 * C, sizeof *mine);
        int32_t *part = malloc(2 * C * sizeof *part);
        failed = !mine || !part;
#pragma omp for schedule(static)
        for (i64 block = 0; block < M; block += 256) {
            if (failed)
                continue;
            memset(part, 0, 2 * C * sizeof *part); /* 256 * 127 * 2**15 < 2**31 */
            for (i64 i = block; i < least(block + 256, M); i++)
                for (i64 c = 0; c < C; c++) {
                    part[c] += error[i * C + c];
                    part[C + c] += error[i * C + c] * xhat[i * C + c];
                }
            for (i64 c = 0; c < 2 * C; c++)
                mine[c] += part[c];
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed; c++) {
            error_sum[c] += mine[c];
            product_sum[c] += mine[C + c];
        }
        free(mine);
        free(part);
    }
    return failed;
}

enum { SPLIT = 14 }; /* bits of the lower part of a number in two int32 */

/* What the backward pass needs of a channel: the row is (e << 16) + zero - part, times factor; and
 * the state of its scan. The part is sgn(xhat) m1, or (xhat m1 + 2**11) >> 12 with
 * m1 = 2**12 upper + lower, that is xhat upper + ((xhat lower + 2**11) >> 12).
 */
typedef struct {
    int32_t *zero, *upper, *lower, *factor, *coarse, *fine, *high, *low;
} backward;

/* A scan in 32 bits. With v the row without its factor, |v| < 2**29, v = 2**14 a + b and
 * rest = 2**14 coarse + fine, 0 <= b, fine < 2**14, the new sum is
 *
 *   rest + v f = 2**14 (coarse + a f + (low >> 14)) + low mod 2**14, low = fine + b f.
 *
 * |f| <= 2**15 and 14 <= shift <= 43 keep |low| below 2**30, coarse below 2**29 and the bracket below
 * 2**30 + 2**29 + 2**16.
 */
INLINE void backward_strip(const int8_t *error, const int16_t *xhat, const backward *v, i64 at,
                           i64 rows, i64 C, i64 shift, int8_t *out, i64 count, int signs)
{
    const lanes none = {0}, zero = load_int32_t(v->zero + at, LANES);
    const lanes upper = load_int32_t(v->upper + at, LANES);
    const lanes lower = load_int32_t(v->lower + at, LANES);
    const lanes factor = load_int32_t(v->factor + at, LANES);
    const int32_t right = (int32_t)shift - SPLIT;
    lanes coarse = load_int32_t(v->coarse + at, LANES), fine = load_int32_t(v->fine + at, LANES);
    lanes high = load_int32_t(v->high + at, LANES), low = load_int32_t(v->low + at, LANES);
    for (i64 i = 0; i < rows; i++) {
        soon(error + (i + DEEP) * C);
        soon(xhat + (i + DEEP) * C);
        soon_written(out + (i + DEEP) * C);
        const lanes x = load_int16_t(xhat + i * C, count);
        const lanes part =
            signs ? sign(x) * upper : x * upper + ((x * lower + (1 << 11)) >> 12);
        const lanes d = (load_int8_t(error + i * C, count) << 16) + zero - part;
        high = larger(high, d);
        low = smaller(low, d);
        fine += (d & ((1 << SPLIT) - 1)) * factor;
        coarse += (d >> SPLIT) * factor + (fine >> SPLIT);
        fine &= (1 << SPLIT) - 1;
        store_int8_t(between(coarse >> right, none - LIMIT, none + LIMIT), out + i * C, count);
        coarse &= (1 << right) - 1;
    }
    store_int32_t(coarse, v->coarse + at, LANES);
    store_int32_t(fine, v->fine + at, LANES);
    store_int32_t(high, v->high + at, LANES);
    store_int32_t(low, v->low + at, LANES);
}

/* batch_norm_backward below in 32 bits; -1 where memory is lacking. */
INLINE i64 backward_narrow(const int8_t *error, const int16_t *xhat, const i64 *m0, const i64 *m1,
                           const i64 *m2, const i64 *factors, i64 shift, int8_t *out, i64 scans,
                           i64 pixels, i64 C, int signs)
{
    const i64 parts = parts_of(scans, C), wide = groups_of(C, LANES) * LANES;
    const i64 half = ((i64)1 << shift) >> 1;
    i64 maximum = 0;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(max : maximum) reduction(| : failed)
    for (i64 task = 0; task < scans * parts; task++) {
        const part own = part_at(task, parts, C);
        int32_t *work = calloc(8 * wide, sizeof *work);
        const backward v = {work,            work + wide,     work + 2 * wide, work + 3 * wide,
                            work + 4 * wide, work + 5 * wide, work + 6 * wide, work + 7 * wide};
        failed |= !work;
        for (i64 c = own.from; c < own.to && work; c++) {
            v.zero[c] = (int32_t)((signs ? m2[c] : 0) - m0[c]);
            v.upper[c] = (int32_t)(signs ? m1[c] : m1[c] >> 12);
            v.lower[c] = (int32_t)(m1[c] & 4095);
            v.factor[c] = (int32_t)factors[c];
            v.coarse[c] = (int32_t)(half >> SPLIT);
            v.fine[c] = (int32_t)(half & ((1 << SPLIT) - 1));
        }
        for (i64 p = 0; p < pixels && work; p += DEEP) {
            const i64 rows = least(DEEP, pixels - p);
            for (i64 c = own.from; c < own.to; c += LANES) {
                const i64 at = (own.scan * pixels + p) * C + c;
                if (c + LANES <= C)
                    backward_strip(error + at, xhat + at, &v, c, rows, C, shift, out + at, LANES,
                                   signs);
                else
                    backward_strip(error + at, xhat + at, &v, c, rows, C, shift, out + at, C - c,
                                   signs);
            }
        }
        for (i64 c = own.from; c < own.to && work; c++) {
            const i64 f = factors[c] < 0 ? -factors[c] : factors[c];
            maximum = most(maximum, f * most(v.high[c], -(i64)v.low[c]));
        }
        free(work);
    }
    return failed ? -1 : maximum;
}

/* signs: the derivative of an L1 deviation, else that of a standard deviation, without m2. Returns
 * the largest magnitude, -1 where memory is lacking.
 */
i64 batch_norm_backward(const int8_t *error, const int16_t *xhat, const i64 *m0, const i64 *m1,
                        const i64 *m2, const i64 *factors, i64 signs, i64 shift, int8_t *out, i64 N,
                        i64 P, i64 C)
{
    const i64 scans = P == 1 ? 1 : N, pixels = P == 1 ? N : P;
    i64 maximum = 0;
    int fits = shift >= SPLIT && shift <= SPLIT + 29;
    for (i64 c = 0; c < C; c++) {
        const i64 zero = (signs ? m2[c] : 0) - m0[c], slope = most(m1[c], -m1[c]);
        /* |xhat| is below 8. */
        const i64 part = signs ? slope : 8 * slope + 1;
        const i64 most_v = ((i64)128 << 16) + most(zero, -zero) + part;
        fits &= most_v < (i64)1 << 29 && most(factors[c], -factors[c]) <= 1 << 15;
    }
    if (fits) {
        maximum = signs ? backward_narrow(error, xhat, m0, m1, m2, factors, shift, out, scans,
                                          pixels, C, 1)
                        : backward_narrow(error, xhat, m0, m1, m2, factors, shift, out, scans,
                                          pixels, C, 0);
        if (maximum >= 0)
            return maximum;
        maximum = 0;
    }
    int failed = 0;
#pragma omp parallel for schedule(static) reduction(max : maximum) reduction(| : failed)
    for (i64 k = 0; k < scans; k++) {
        i64 *work = calloc(3 * C, sizeof *work);
        i64 *row = work, *rest = work + C, *top = work + 2 * C;
        failed |= !work;
        for (i64 c = 0; c < C && work; c++)
            rest[c] = ((i64)1 << shift) >> 1;
        for (i64 p = 0; p < pixels && work; p++) {
            const i64 at = (k * pixels + p) * C;
            const int8_t *e = error + at;
            const int16_t *x = xhat + at;
            for (i64 c = 0; c < C; c++) {
                const i64 product = (x[c] * m1[c] + (1 << 11)) >> 12;
                const i64 part = signs ? ((x[c] > 0) - (x[c] < 0)) * m1[c] - m2[c] : product;
                row[c] = (((i64)e[c] << 16) - m0[c] - part) * factors[c];
            }
            diffuse(row, rest, out + at, shift, top, C);
        }
        for (i64 c = 0; c < C && work; c++)
            maximum = most(maximum, top[c]);
        free(work);
    }
    return failed ? -1 : maximum;
}

i64 batch_norm_prepare(const i64 *mean, const i64 *deviation, const i64 *running_mean,
                       const i64 *running_deviation, const int16_t *gamma, const int16_t *beta,
                       i64 count, i64 left, i64 weight, i64 *out, i64 pitch, i64 C);
i64 batch_norm_error_vectors(const i64 *error_sum, const i64 *product_sum, const i64 *sign_sum,
                             i64 count, const i64 *gamma, const i64 *mantissa, const i64 *shift,
                             i64 *out, i64 C);

int batch_norm_channels(const batch_norm *n, const int32_t *acc, i64 from, i64 count)
{
    i64 *v[9];
    for (int k = 0; k < 9; k++)
        v[k] = n->vectors + k * n->C + from;
    i64 *const signs = v[6], *const mean = v[7], *const deviation = v[8];
    if (batch_norm_statistics(acc, mean, deviation, n->std, n->M, count))
        return 1;
    if (n->std)
        memset(signs, 0, count * sizeof *signs);
    if (batch_norm_prepare(mean, deviation, n->running_mean + from, n->running_deviation + from,
                           n->gamma + from, n->beta + from, n->M, n->left, n->weight, v[0], n->C,
                           count))
        return 2;
    return normalize(acc, mean, v[0], v[1], v[2], v[3], n->out_shift,
                     n->residual ? n->residual + from : NULL, n->residual_shift, n->low,
                     n->xhat + from, n->out + from, n->std ? NULL : signs, n->M, count, n->C);
}

void batch_norm_keep(const batch_norm *n)
{
    memcpy(n->running_mean, n->vectors + 4 * n->C, n->C * sizeof(i64));
    memcpy(n->running_deviation, n->vectors + 5 * n->C, n->C * sizeof(i64));
}

/* As batch_norm_channels(), of all channels; the running statistics follow where nothing failed. */
int batch_norm_forward(const batch_norm *n, const int32_t *acc)
{
    const int failed = batch_norm_channels(n, acc, 0, n->C);
    if (!failed)
        batch_norm_keep(n);
    return failed;
}

/* The error behind batch norm, in one call: quantised to e, with its sums and what they make of each
 * channel, the error of the accumulator, quantised to out. Shifts are guessed and corrected.
 *
 * guess: the exponents of the largest errors of the step before; exponent: that of the terms; base:
 * that of the wide error of the accumulator without what is found here. vectors: as of
 * batch_norm_forward(). work: error sums, product sums, m0, m1, m2, factors. found: the shift of e,
 * the largest error before it, the exponent of the wide error, its shift, the largest before that.
 * Products of out, if any, follow. Returns 1 where memory is lacking.
 */
int batch_norm_error(const term *terms, i64 count, const int8_t *y, i64 low, const int16_t *xhat,
                     const i64 *vectors, i64 signs, const i64 *guess, i64 exponent, i64 base,
                     int8_t *e, int8_t *out, i64 *work, i64 *found, i64 N, i64 H, i64 W, i64 C,
                     const product *products, i64 number)
{
    const i64 scans = H * W == 1 ? 1 : N, pixels = H * W == 1 ? N : H * W;
    i64 *const error_sum = work, *const product_sum = work + C, *const m = work + 2 * C;
    i64 shift = most(guess[0] - 7 - exponent, 0), largest = -1;
    for (;;) {
        memset(error_sum, 0, 2 * C * sizeof *work);
        if (narrow(terms, count, shift))
            largest = quantize_narrow(terms, count, y, low, xhat, shift, e, error_sum, product_sum,
                                      scans, pixels, H * W == 1 ? 0 : W, C);
        const int summed = largest >= 0;
        if (!summed)
            largest = quantize_error(terms, count, y, low, shift, e, N, H, W, C);
        if (largest < 0)
            return 1;
        const i64 right = code_shift(largest);
        if (right == shift) {
            if (!summed && batch_norm_sums(e, xhat, error_sum, product_sum, N * H * W, C))
                return 1;
            break;
        }
        shift = right;
        largest = -1;
    }
    found[0] = shift;
    found[1] = largest;
    const i64 factor = batch_norm_error_vectors(error_sum, product_sum, vectors + 6 * C, N * H * W,
                                                vectors + 2 * C, vectors, vectors + C, m, C);
    found[2] = base + exponent + shift + factor;
    shift = most(guess[1] - 7 - found[2], 0);
    for (;;) {
        largest = batch_norm_backward(e, xhat, m, m + C, m + 2 * C, m + 3 * C, signs, shift, out, N,
                                      H * W, C);
        if (largest < 0)
            return 1;
        const i64 right = code_shift(largest);
        if (right == shift)
            break;
        shift = right;
    }
    found[3] = shift;
    found[4] = largest;
    return convolve_all(products, number);
}
