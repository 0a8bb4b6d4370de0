/* The small operations of inference, on (N, H, W, C) int8 maps: the bytes of plain.py. */
#include "tile.h"

#include <stdlib.h>

/* Pixels, uint8 of any strides, to codes: pixel - 128. */
void image_codes(const uint8_t *x, i64 stride_n, i64 stride_c, i64 stride_h, i64 stride_w,
                 int8_t *out, i64 N, i64 H, i64 W, i64 C)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 n = 0; n < N; n++)
        for (i64 h = 0; h < H; h++)
            for (i64 c = 0; c < C; c++) {
                const uint8_t *line = x + n * stride_n + c * stride_c + h * stride_h;
                int8_t *y = out + (n * H + h) * W * C + c;
                for (i64 w = 0; w < W; w++)
                    y[w * C] = (int8_t)(line[w * stride_w] ^ 128);
            }
}

INLINE void maximum(const int8_t *x, int8_t *y, i64 count)
{
    for (i64 i = 0; i < count; i++)
        y[i] = x[i] > y[i] ? x[i] : y[i];
}

/* Maxima of the windows; every window has an element inside the map. Returns 1 where memory is
 * lacking.
 */
int window_maxima(const int8_t *x, int8_t *out, i64 N, i64 H, i64 W, i64 C, i64 R, i64 S,
                  i64 stride_h, i64 stride_w, i64 top, i64 left, i64 P, i64 Q)
{
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        int8_t *line = malloc(W * C); /* the maxima of the rows of a window */
        failed = !line;
#pragma omp for collapse(2) schedule(static)
        for (i64 n = 0; n < N; n++)
            for (i64 p = 0; p < P; p++) {
                if (failed)
                    continue;
                const i64 from = most(p * stride_h - top, 0), to = least(p * stride_h - top + R, H);
                memcpy(line, x + (n * H + from) * W * C, W * C);
                for (i64 h = from + 1; h < to; h++)
                    maximum(x + (n * H + h) * W * C, line, W * C);
                for (i64 q = 0; q < Q; q++) {
                    const i64 w0 = most(q * stride_w - left, 0);
                    const i64 w1 = least(q * stride_w - left + S, W);
                    int8_t *y = out + ((n * P + p) * Q + q) * C;
                    memcpy(y, line + w0 * C, C);
                    for (i64 w = w0 + 1; w < w1; w++)
                        maximum(line + w * C, y, C);
                }
            }
        free(line);
    }
    return failed;
}

/* Sums over the pixels, (N, C); fewer than 2**24 pixels. */
void pixel_sums(const int8_t *x, int32_t *out, i64 N, i64 P, i64 C)
{
    memset(out, 0, N * C * sizeof *out);
    for (i64 n = 0; n < N; n++)
        for (i64 p = 0; p < P; p++)
            for (i64 c = 0; c < C; c++)
                out[n * C + c] += x[(n * P + p) * C + c];
}

/* As resize_wide() of kernels.c, then (t + half) >> shift: half = 2**shift / 2. */
int resize_shifted(const int8_t *x, int8_t *out, i64 N, i64 H, i64 W, i64 C, const i64 *r0,
                   const i64 *r1, const i64 *rw, i64 row_unit, i64 P, const i64 *c0,
                   const i64 *c1, const i64 *cw, i64 column_unit, i64 Q, i64 shift)
{
    const int32_t half = (1 << shift) >> 1, right = (int32_t)shift;
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
                const int8_t *a = x + (n * H + r0[p]) * W * C, *b = x + (n * H + r1[p]) * W * C;
                const int32_t wb = (int32_t)rw[p], wa = (int32_t)(row_unit - rw[p]);
                for (i64 i = 0; i < W * C; i++)
                    mixed[i] = a[i] * wa + b[i] * wb;
                for (i64 q = 0; q < Q; q++) {
                    const int32_t *u = mixed + c0[q] * C, *v = mixed + c1[q] * C;
                    const int32_t vw = (int32_t)cw[q], uw = (int32_t)(column_unit - cw[q]);
                    int8_t *y = out + ((n * P + p) * Q + q) * C;
                    for (i64 c = 0; c < C; c++)
                        y[c] = (int8_t)((u[c] * uw + v[c] * vw + half) >> right);
                }
            }
        free(mixed);
    }
    return failed;
}

/* The lowest index of the largest code; at most 2**16 channels. */
void argmax(const int8_t *x, i64 *out, i64 M, i64 C)
{
#pragma omp parallel for schedule(static)
    for (i64 i = 0; i < M; i++) {
        const int8_t *v = x + i * C;
        int32_t best = INT32_MIN;
        /* In this key the lowest of equals is the largest. */
        for (i64 c = 0; c < C; c++) {
            const int32_t key = v[c] * (1 << 16) + (65535 - (int32_t)c);
            best = key > best ? key : best;
        }
        out[i] = 65535 - (best & 0xFFFF);
    }
}
