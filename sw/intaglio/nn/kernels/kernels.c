/* Fused integer loops for training: the kernels of plain.py, byte for byte.
 *
 * Feature maps lie as (N, H, W, C). Sums are exact integers, so that the partition over threads
 * does not matter. Compile with -fwrapv: shifts of negative numbers are arithmetic.
 */

#define _DEFAULT_SOURCE /* madvise */
#include "lanes.h"
#include "requantize.h"
#include "taps.h"

#include <stdlib.h>
#include <sys/mman.h>

#define LIMIT 127

/* Ask for large pages in the whole ones of a block that is not touched yet; no is an answer. */
void large_pages(char *block, i64 bytes)
{
    const uintptr_t page = 2 << 20;
    const uintptr_t first = ((uintptr_t)block + page - 1) & -page;
    const uintptr_t end = ((uintptr_t)block + (u64)bytes) & -page;
#ifdef MADV_HUGEPAGE
    if (first < end)
        madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)first, (void)end;
#endif
}

/* Output (p, q), tap (r, s) meet row (p * stride - origin + r * dilation) / spread of x. */
void im2col(const int8_t *x, int8_t *out, i64 N, i64 H, i64 W, i64 C, i64 R, i64 S, i64 stride_h,
            i64 stride_w, i64 top, i64 left, i64 dil_h, i64 dil_w, i64 spread_h, i64 spread_w,
            i64 P, i64 Q, i64 code, i64 pitch)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 n = 0; n < N; n++)
        for (i64 p = 0; p < P; p++)
            for (i64 q = 0; q < Q; q++) {
                int8_t *row = out + ((n * P + p) * Q + q) * pitch;
                for (i64 r = 0; r < R; r++) {
                    i64 h = p * stride_h - top + r * dil_h;
                    int inside = h >= 0 && h % spread_h == 0 && h / spread_h < H;
                    const int8_t *line = x + (n * H + (inside ? h / spread_h : 0)) * W * C;
                    i64 w0 = q * stride_w - left;
                    if (inside && spread_w == 1 && dil_w == 1 && w0 >= 0 && w0 + S <= W) {
                        memcpy(row, line + w0 * C, S * C);
                        row += S * C;
                        continue;
                    }
                    for (i64 s = 0; s < S; s++, row += C) {
                        i64 w = w0 + s * dil_w;
                        if (inside && w >= 0 && w % spread_w == 0 && w / spread_w < W)
                            memcpy(row, line + w / spread_w * C, C);
                        else
                            memset(row, (int)code, C);
                    }
                }
                memset(row, 0, pitch - R * S * C);
            }
}

static i64 largest_of(const int16_t *x, i64 count)
{
    int16_t high = 0, low = 0;
#pragma omp parallel for schedule(static) reduction(max : high) reduction(min : low)
    for (i64 i = 0; i < count; i++) {
        high = x[i] > high ? x[i] : high;
        low = x[i] < low ? x[i] : low;
    }
    return most(high, -(i64)low);
}

INLINE void narrow_codes(const int16_t *master, i64 step, int8_t *out, int32_t shift, i64 n)
{
    const int32_t half = (1 << shift) >> 1;
    for (i64 i = 0; i < n; i++) {
        const int32_t v = (master[i * step] + half) >> shift;
        out[i] = (int8_t)(v < -LIMIT ? -LIMIT : v > LIMIT ? LIMIT : v);
    }
}

enum { LINE = 256 }; /* channels of a master whose taps are turned at a time */

/* master (K, C, taps) to codes (K, living, C), as the products read them: of those taps alone that
 * `at` has, all if it is NULL. Returns the shift, which is that of all taps; -1 where memory is
 * lacking.
 */
i64 weight_codes(const int16_t *master, int8_t *out, i64 K, i64 C, i64 taps, const i64 *at,
                 i64 living)
{
    const i64 shift = most(log2_ceil(largest_of(master, K * C * taps)) - 7, 0);
    if (taps == 1) {
#pragma omp parallel for schedule(static)
        for (i64 k = 0; k < K; k++)
            narrow_codes(master + k * C, 1, out + k * C, (int32_t)shift, C);
        return shift;
    }
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        int8_t *line = at ? NULL : malloc(LINE * taps);
        failed = !at && !line;
#pragma omp for schedule(static)
        for (i64 k = 0; k < K; k++) {
            for (i64 t = 0; t < living && at; t++)
                narrow_codes(master + k * C * taps + at[t], taps, out + (k * living + t) * C,
                             (int32_t)shift, C);
            for (i64 c = 0; c < C && line; c += LINE) {
                const i64 n = least(LINE, C - c);
                narrow_codes(master + (k * C + c) * taps, 1, line, (int32_t)shift, n * taps);
                taps_outside(line, n, taps, out + k * taps * C + c, C);
            }
        }
        free(line);
    }
    return failed ? -1 : shift;
}

void requantize(const int32_t *acc, const i64 *m, const i64 *b, i64 shift, const int8_t *residual,
                i64 residual_shift, i64 low, i64 high, int8_t *out, i64 M, i64 C)
{
    const requantizer q = {.m = m, .b = b, .shift = shift, .residual_shift = residual_shift,
                           .low = low, .high = high};
#pragma omp parallel for schedule(static)
    for (i64 i = 0; i < M; i++)
        requantize_exact(&q, acc + i * C, 0, C, residual ? residual + i * C : NULL, out + i * C);
}

static int channel_sums(const int32_t *acc, i64 *total, i64 M, i64 C)
{
    int failed = 0;
    memset(total, 0, C * sizeof *total);
#pragma omp parallel reduction(| : failed)
    {
        i64 *mine = calloc(C, sizeof *mine);
        failed = !mine;
#pragma omp for schedule(static)
        for (i64 i = 0; i < M; i++) {
            if (failed)
                continue;
            for (i64 c = 0; c < C; c++)
                mine[c] += acc[i * C + c];
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed; c++)
            total[c] += mine[c];
        free(mine);
    }
    return failed;
}

static int channel_deviations(const int32_t *acc, const i64 *mean, i64 *total, i64 M, i64 C)
{
    int failed = 0;
    memset(total, 0, C * sizeof *total);
#pragma omp parallel reduction(| : failed)
    {
        i64 *mine = calloc(C, sizeof *mine);
        failed = !mine;
#pragma omp for schedule(static)
        for (i64 i = 0; i < M; i++) {
            if (failed)
                continue;
            for (i64 c = 0; c < C; c++) {
                /* The difference of two int32 fits 32 bits without sign. */
                const int32_t a = acc[i * C + c], m = (int32_t)mean[c];
                mine[c] += (uint32_t)(a > m ? a : m) - (uint32_t)(a > m ? m : a);
            }
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed; c++)
            total[c] += mine[c];
        free(mine);
    }
    return failed;
}

void round_means(i64 *total, i64 count, i64 C);

/* The means of M accumulators and the sums of their distances to them, at least M. Returns 1 where
 * memory is lacking.
 */
int batch_norm_statistics(const int32_t *acc, i64 *mean, i64 *deviation, i64 M, i64 C)
{
    if (channel_sums(acc, mean, M, C))
        return 1;
    round_means(mean, M, C);
    if (channel_deviations(acc, mean, deviation, M, C))
        return 1;
    for (i64 c = 0; c < C; c++)
        deviation[c] = most(deviation[c], M);
    return 0;
}

enum { DEEP = 16 }; /* pixels of a strip: their maps stay in the second cache between strips */

/* Fetch what the strip below will read: processors do not guess the order of strips. */
INLINE void soon(const void *x) { __builtin_prefetch(x, 0, 2); }

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
                            i64 out_shift, const int8_t *residual, i64 residual_shift, i64 least_y,
                            int16_t *xhat, int8_t *out, i64 count)
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
        const lanes d = between(load_int32_t(acc + i * C, count), low, high) - mean;
        const unsigned_lanes rest = (unsigned_lanes)((d & mask) * factor + half);
        lanes x = ((d >> fine) * factor + (lanes)(rest >> (unsigned_lanes)fine)) >> coarse;
        x = between(x, zero - 32767, zero + 32767);
        store_int16_t(x, xhat + i * C, count);
        signs += sign(x);
        lanes y = x * gamma + beta;
        if (residual)
            y += load_int8_t(residual + i * C, count) << (int32_t)residual_shift;
        store_int8_t(between(y >> (int32_t)out_shift, bottom, zero + LIMIT), out + i * C, count);
    }
    store_int32_t(signs, v->signs + at, LANES);
}

static int32_t saturated(i64 v)
{
    return (int32_t)(v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v);
}

/* mantissa in [2**15, 2**16], shift at least 12. Returns 1 where memory is lacking, 2 where a shift
 * is beyond 42: deviations of 2**28 and more, differences that saturate count.
 */
i64 batch_norm_normalize(const int32_t *acc, const i64 *mean, const i64 *mantissa,
                         const i64 *shift, const i64 *gamma, const i64 *beta, i64 out_shift,
                         const int8_t *residual, i64 residual_shift, i64 low, int16_t *xhat,
                         int8_t *out, i64 *signs, i64 M, i64 C)
{
    const i64 wide = groups_of(C, LANES) * LANES;
    int failed = 0;
    for (i64 c = 0; c < C; c++)
        if (shift[c] > 42)
            return 2;
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
                const i64 at = i * C + c;
                const int8_t *z = residual ? residual + at : NULL;
                if (c + LANES <= C)
                    normalize_strip(acc + at, &v, c, rows, C, out_shift, z, residual_shift, low,
                                    xhat + at, out + at, LANES);
                else
                    normalize_strip(acc + at, &v, c, rows, C, out_shift, z, residual_shift, low,
                                    xhat + at, out + at, C - c);
            }
        }
#pragma omp critical
        for (i64 c = 0; c < C && !failed; c++)
            signs[c] += v.signs[c]; /* fewer than 2**31 rows */
        free(work);
    }
    return failed;
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

static i64 parts_of(i64 scans, i64 C) { return least(groups_of(C, 64), groups_of(4, scans)); }

static part part_at(i64 task, i64 parts, i64 C)
{
    const i64 width = groups_of(groups_of(C, 64), parts) * 64, from = least(C, task % parts * width);
    return (part){task / parts, from, least(C, from + width)};
}

/* A scan in 32 bits: |row| <= 2**30 and shift <= 29. rest, high, low are those of a strip's channels. */
INLINE void diffuse_strip(const lanes *row, i64 rows, i64 C, i64 shift, const int8_t *mask,
                          int8_t *out, int32_t *rest, int32_t *high, int32_t *low, i64 count)
{
    const lanes zero = {0};
    const int32_t right = (int32_t)shift, below = (1 << right) - 1;
    lanes r = load_int32_t(rest, LANES), h = load_int32_t(high, LANES), l = load_int32_t(low, LANES);
    for (i64 i = 0; i < rows; i++) {
        lanes v = row[i];
        if (mask) { /* -1 where the code is positive */
            soon(mask + (i + DEEP) * C);
            v &= (zero - load_int8_t(mask + i * C, count)) >> 31;
        }
        r += v;
        h = larger(h, v);
        l = smaller(l, v);
        store_int8_t(between(r >> right, zero - LIMIT, zero + LIMIT), out + i * C, count);
        r &= below;
    }
    store_int32_t(r, rest, LANES);
    store_int32_t(h, high, LANES);
    store_int32_t(l, low, LANES);
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

/* quantize_error below in 32 bits; -1 where a sum may leave them. */
static i64 quantize_narrow(const term *terms, i64 count, const int8_t *mask, i64 shift, int8_t *out,
                           i64 scans, i64 pixels, i64 W, i64 C)
{
    const i64 parts = parts_of(scans, C), wide = groups_of(C, LANES) * LANES;
    i64 maximum = 0;
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(max : maximum) reduction(| : failed)
    for (i64 task = 0; task < scans * parts; task++) {
        const part own = part_at(task, parts, C);
        int32_t *work = calloc(3 * wide, sizeof *work);
        int32_t *rest = work, *high = work + wide, *low = work + 2 * wide;
        lanes bad = {0};
        for (i64 c = 0; c < wide && work; c++)
            rest[c] = (1 << shift) >> 1;
        for (i64 p = 0; p < pixels && work; p += DEEP) {
            const i64 rows = least(DEEP, pixels - p), start = (own.scan * pixels + p) * C;
            i64 at[NARROW][DEEP];
            for (i64 k = 0; k < count; k++)
                for (i64 i = 0; i < rows; i++)
                    at[k][i] = W ? own.scan * terms[k].stride_n + (p + i) / W * terms[k].stride_h +
                                       (p + i) % W * terms[k].stride_w
                                 : (p + i) * terms[k].stride_n;
            for (i64 c = own.from; c < own.to; c += LANES) {
                lanes row[DEEP];
                const int8_t *z = mask ? mask + start + c : NULL;
                if (c + LANES <= C) {
                    bad |= gather_strip(terms, count, at, c, rows, row, LANES);
                    diffuse_strip(row, rows, C, shift, z, out + start + c, rest + c, high + c,
                                  low + c, LANES);
                } else {
                    bad |= gather_strip(terms, count, at, c, rows, row, C - c);
                    diffuse_strip(row, rows, C, shift, z, out + start + c, rest + c, high + c,
                                  low + c, C - c);
                }
            }
        }
        for (i64 c = own.from; c < own.to && work; c++)
            maximum = most(maximum, most(high[c], -low[c]));
        for (int i = 0; i < LANES; i++)
            failed |= bad[i] != 0;
        failed |= !work; /* what needs less memory may go well */
        free(work);
    }
    return failed ? -1 : maximum;
}

/* The scan runs along the pixels of an image, in 1x1 maps along the images. Returns the largest
 * magnitude, -1 where memory is lacking.
 */
i64 quantize_error(const term *terms, i64 count, const int8_t *mask, i64 shift, int8_t *out, i64 N,
                   i64 H, i64 W, i64 C)
{
    const i64 scans = H * W == 1 ? 1 : N, pixels = H * W == 1 ? N : H * W;
    i64 maximum = 0;
    if (narrow(terms, count, shift)) {
        maximum = quantize_narrow(terms, count, mask, shift, out, scans, pixels, H * W == 1 ? 0 : W,
                                  C);
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
            if (mask)
                for (i64 c = 0; c < C; c++)
                    row[c] = mask[at + c] > 0 ? row[c] : 0;
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

/* One tap of a window: where it is larger, it wins. Without `restrict` bytes would go one by one. */
INLINE void pool_tap(const int8_t *restrict x, uint8_t tap, int8_t *restrict y,
                     uint8_t *restrict winner, i64 C)
{
    for (i64 c = 0; c < C; c++) {
        const int better = x[c] > y[c];
        winner[c] = better ? tap : winner[c];
        y[c] = better ? x[c] : y[c];
    }
}

void max_pool(const int8_t *x, int8_t *out, uint8_t *winner, i64 N, i64 H, i64 W, i64 C, i64 R,
              i64 S, i64 stride_h, i64 stride_w, i64 top, i64 left, i64 P, i64 Q)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 n = 0; n < N; n++)
        for (i64 p = 0; p < P; p++)
            for (i64 q = 0; q < Q; q++) {
                int8_t *y = out + ((n * P + p) * Q + q) * C;
                uint8_t *k = winner + ((n * P + p) * Q + q) * C;
                int first = 1;
                for (i64 r = 0; r < R; r++)
                    for (i64 s = 0; s < S; s++) {
                        const i64 h = p * stride_h - top + r, w = q * stride_w - left + s;
                        if (h < 0 || h >= H || w < 0 || w >= W)
                            continue;
                        const int8_t *v = x + ((n * H + h) * W + w) * C;
                        const uint8_t tap = (uint8_t)(r * S + s);
                        if (first) {
                            memcpy(y, v, C);
                            memset(k, tap, C);
                        } else {
                            pool_tap(v, tap, y, k, C);
                        }
                        first = 0;
                    }
            }
}

#define POOL_GRADIENT(type)                                                                        \
    INLINE void pool_gradient_tap_##type(const type *restrict e, const uint8_t *restrict winner,   \
                                         uint8_t tap, type *restrict v, i64 C)                     \
    {                                                                                              \
        for (i64 c = 0; c < C; c++)                                                                \
            v[c] += winner[c] == tap ? e[c] : 0;                                                   \
    }                                                                                              \
    void max_pool_gradient_##type(const type *error, const uint8_t *winner, type *out, i64 N,      \
                                  i64 H, i64 W, i64 C, i64 R, i64 S, i64 stride_h, i64 stride_w,   \
                                  i64 top, i64 left, i64 P, i64 Q)                                 \
    {                                                                                              \
        _Pragma("omp parallel for schedule(static)") for (i64 n = 0; n < N; n++)                   \
        {                                                                                          \
            memset(out + n * H * W * C, 0, H *W *C * sizeof *out);                                 \
            for (i64 p = 0; p < P; p++)                                                            \
                for (i64 q = 0; q < Q; q++)                                                        \
                    for (i64 r = 0; r < R; r++)                                                    \
                        for (i64 s = 0; s < S; s++) {                                              \
                            const i64 h = p * stride_h - top + r, w = q * stride_w - left + s;     \
                            const i64 at = ((n * P + p) * Q + q) * C;                              \
                            if (h < 0 || h >= H || w < 0 || w >= W)                                \
                                continue;                                                          \
                            pool_gradient_tap_##type(error + at, winner + at,                      \
                                                     (uint8_t)(r * S + s),                         \
                                                     out + ((n * H + h) * W + w) * C, C);          \
                        }                                                                          \
        }                                                                                          \
    }
POOL_GRADIENT(int8_t)
POOL_GRADIENT(int32_t)
POOL_GRADIENT(int64_t)

/* Tables: first and second source position, weight of the second; the first has unit - weight. */
static void resize_row(const int8_t *x, int32_t *mixed, i64 n, i64 p, i64 H, i64 W, i64 C,
                       const i64 *r0, const i64 *r1, const i64 *rw, i64 unit)
{
    const int8_t *a = x + (n * H + r0[p]) * W * C, *b = x + (n * H + r1[p]) * W * C;
    const int32_t wb = (int32_t)rw[p], wa = (int32_t)(unit - rw[p]);
    for (i64 i = 0; i < W * C; i++)
        mixed[i] = a[i] * wa + b[i] * wb;
}

/* Returns 1 where memory is lacking. */
int resize_wide(const int8_t *x, int32_t *out, i64 N, i64 H, i64 W, i64 C, const i64 *r0,
                const i64 *r1, const i64 *rw, i64 row_unit, i64 P, const i64 *c0, const i64 *c1,
                const i64 *cw, i64 column_unit, i64 Q)
{
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        int32_t *mixed = malloc(W * C * sizeof *mixed);
        failed = !mixed;
#pragma omp for collapse(2) schedule(static)
        for (i64 n = 0; n < N; n++)
            for (i64 p = 0; p < P; p++) {
                if (failed)
                    continue;
                resize_row(x, mixed, n, p, H, W, C, r0, r1, rw, row_unit);
                for (i64 q = 0; q < Q; q++) {
                    const int32_t *a = mixed + c0[q] * C, *b = mixed + c1[q] * C;
                    const int32_t wb = (int32_t)cw[q], wa = (int32_t)(column_unit - cw[q]);
                    int32_t *y = out + ((n * P + p) * Q + q) * C;
                    for (i64 c = 0; c < C; c++)
                        y[c] = a[c] * wa + b[c] * wb;
                }
            }
        free(mixed);
    }
    return failed;
}

/* Returns 1 where memory is lacking. */
#define RESIZE_GRADIENT(type)                                                                      \
    int resize_gradient_##type(const type *error, i64 *out, i64 N, i64 H, i64 W, i64 C,            \
                               const i64 *r0, const i64 *r1, const i64 *rw, i64 row_unit, i64 P,   \
                               const i64 *c0, const i64 *c1, const i64 *cw, i64 column_unit,       \
                               i64 Q)                                                              \
    {                                                                                              \
        int failed = 0;                                                                            \
        _Pragma("omp parallel for schedule(static) reduction(| : failed)")                         \
        for (i64 n = 0; n < N; n++)                                                                \
        {                                                                                          \
            i64 *line = malloc(W * C * sizeof *line);                                              \
            if (!line) {                                                                           \
                failed = 1;                                                                        \
                continue;                                                                          \
            }                                                                                      \
            i64 *image = out + n * H * W * C;                                                      \
            memset(image, 0, H *W *C * sizeof *image);                                             \
            for (i64 p = 0; p < P; p++) {                                                          \
                memset(line, 0, W *C * sizeof *line);                                              \
                for (i64 q = 0; q < Q; q++) {                                                      \
                    const type *e = error + ((n * P + p) * Q + q) * C;                             \
                    i64 *a = line + c0[q] * C, *b = line + c1[q] * C;                              \
                    const i64 wb = cw[q], wa = column_unit - cw[q];                                \
                    for (i64 c = 0; c < C; c++)                                                    \
                        a[c] += e[c] * wa;                                                         \
                    for (i64 c = 0; c < C; c++)                                                    \
                        b[c] += e[c] * wb;                                                         \
                }                                                                                  \
                i64 *a = image + r0[p] * W * C, *b = image + r1[p] * W * C;                        \
                const i64 wb = rw[p], wa = row_unit - rw[p];                                       \
                for (i64 i = 0; i < W * C; i++)                                                    \
                    a[i] += line[i] * wa;                                                          \
                for (i64 i = 0; i < W * C; i++)                                                    \
                    b[i] += line[i] * wb;                                                          \
            }                                                                                      \
            free(line);                                                                            \
        }                                                                                          \
        return failed;                                                                             \
    }
RESIZE_GRADIENT(int8_t)
RESIZE_GRADIENT(int32_t)
RESIZE_GRADIENT(int64_t)

/* totals: loss in steps of 1/256 bit, counted pixels. */
#define SOFTMAX(type)                                                                              \
    void softmax_cross_entropy_##type(const type *logits, i64 shift, const uint8_t *labels,        \
                                      i64 void_label, const i64 *exp2, const i64 *log2,            \
                                      int8_t *error, i64 *totals, i64 M, i64 K)                    \
    {                                                                                              \
        i64 bits = 0, counted = 0;                                                                 \
        const i64 half = shift > 0 ? ((i64)1 << shift) >> 1 : 0;                                   \
        _Pragma("omp parallel for schedule(static) reduction(+ : bits, counted)")                  \
        for (i64 i = 0; i < M; i++)                                                                \
        {                                                                                          \
            int32_t z[256], t[256], p[256];                                                        \
            const type *v = logits + i * K;                                                        \
            int8_t *e = error + i * K;                                                             \
            const i64 y = labels[i];                                                               \
            if (y == void_label) {                                                                 \
                memset(e, 0, K);                                                                   \
                continue;                                                                          \
            }                                                                                      \
            int32_t top = INT32_MIN, total = 0;                                                    \
            if (shift >= 0)                                                                        \
                for (i64 k = 0; k < K; k++)                                                        \
                    z[k] = (int32_t)(((i64)v[k] + half) >> shift);                                 \
            else                                                                                   \
                for (i64 k = 0; k < K; k++)                                                        \
                    z[k] = (int32_t)((i64)v[k] << -shift);                                         \
            for (i64 k = 0; k < K; k++)                                                            \
                top = z[k] > top ? z[k] : top;                                                     \
            for (i64 k = 0; k < K; k++) {                                                          \
                t[k] = (int32_t)(((i64)(z[k] - top) * 369 + 256) >> 9);                            \
                const int32_t right = -(t[k] >> 5);                                                \
                p[k] = (int32_t)exp2[t[k] & 31] >> (right < 16 ? right : 16);                      \
                total += p[k];                                                                     \
            }                                                                                      \
            for (i64 k = 0; k < K; k++) {                                                          \
                int32_t q = (int32_t)((uint32_t)(256 * p[k] + total) / (uint32_t)(2 * total));     \
                q -= k == y ? 128 : 0;                                                             \
                e[k] = (int8_t)(q > LIMIT ? LIMIT : q < -LIMIT ? -LIMIT : q);                      \
            }                                                                                      \
            counted++;                                                                             \
            if (y < K) {                                                                           \
                const int whole = 31 - __builtin_clz((uint32_t)total);                             \
                bits += ((whole - 12) << 8) + log2[(total >> (whole - 8)) & 255] - (t[y] << 3);    \
            }                                                                                      \
        }                                                                                          \
        totals[0] = bits;                                                                          \
        totals[1] = counted;                                                                       \
    }
SOFTMAX(int8_t)
SOFTMAX(int32_t)
SOFTMAX(int64_t)
