/* Fused integer loops for training: the kernels of plain.py, byte for byte.
 *
 * Feature maps lie as (N, H, W, C). Sums are exact integers, so that the partition over threads
 * does not matter. Compile with -fwrapv: shifts of negative numbers are arithmetic.
 */

#define _DEFAULT_SOURCE /* madvise */
#include "requantize.h"
#include "taps.h"
#include "windows.h"

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

enum { MAPPED = 32 << 20 }; /* bytes from which on the C library maps a block anew each time */

void *large_buffer(i64 bytes)
{
    void *block = buffer(bytes);
    if (block && bytes >= MAPPED)
        large_pages(block, bytes);
    return block;
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

/* The codes of n masters; high and low are extended by the masters. */
INLINE void narrow_codes(const int16_t *master, i64 step, int8_t *out, int32_t shift, i64 n,
                         int16_t *high, int16_t *low)
{
    const int32_t half = (1 << shift) >> 1;
    int16_t a = *low, b = *high;
    for (i64 i = 0; i < n; i++) {
        const int16_t x = master[i * step];
        const int32_t v = (x + half) >> shift;
        a = x < a ? x : a;
        b = x > b ? x : b;
        out[i] = (int8_t)clipped_int32_t(v, LIMIT);
    }
    *low = a;
    *high = b;
}

enum { LINE = 256 }; /* channels of a master whose taps are turned at a time */

/* The codes of weight_codes() for a shift; returns the largest magnitude of the masters of the taps
 * that were read, -1 where memory is lacking.
 */
static i64 codes_at(const int16_t *master, int8_t *out, i64 K, i64 C, i64 taps, const i64 *at,
                    i64 living, int32_t shift)
{
    int16_t high = 0, low = 0;
    int failed = 0;
#pragma omp parallel reduction(max : high) reduction(min : low) reduction(| : failed)
    {
        const int turned = taps > 1 && !at;
        int8_t *line = turned ? malloc(LINE * taps) : NULL;
        failed = turned && !line;
#pragma omp for schedule(static)
        for (i64 k = 0; k < K; k++) {
            const int16_t *from = master + k * C * taps;
            int8_t *to = out + k * living * C;
            if (taps == 1)
                narrow_codes(from, 1, to, shift, C, &high, &low);
            for (i64 t = 0; t < living && at; t++)
                narrow_codes(from + at[t], taps, to + t * C, shift, C, &high, &low);
            for (i64 c = 0; c < C && line; c += LINE) {
                const i64 n = least(LINE, C - c);
                narrow_codes(from + c * taps, 1, line, shift, n * taps, &high, &low);
                taps_outside(line, n, taps, to + c, C);
            }
        }
        free(line);
    }
    return failed ? -1 : most(high, -(i64)low);
}

/* master (K, C, taps) to codes (K, living, C), as the products read them: of those taps alone that
 * `at` has, all if it is NULL. Returns the shift, which is that of all taps; -1 where memory is
 * lacking. A guess of it that is not below 0 may save a pass.
 */
i64 weight_codes(const int16_t *master, int8_t *out, i64 K, i64 C, i64 taps, const i64 *at,
                 i64 living, i64 guess)
{
    i64 shift = guess;
    if (at || guess < 0)
        shift = code_shift(largest_of(master, K * C * taps));
    for (;;) {
        const i64 largest = codes_at(master, out, K, C, taps, at, living, (int32_t)shift);
        if (largest < 0)
            return -1;
        const i64 right = code_shift(largest);
        if (at || right == shift)
            return shift;
        shift = right;
    }
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
