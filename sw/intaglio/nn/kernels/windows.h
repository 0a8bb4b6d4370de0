/* The windows of a convolution on (N, H, W, C) int8 maps, where they lie. */
#ifndef INTAGLIO_WINDOWS_H
#define INTAGLIO_WINDOWS_H

#include "tile.h"

#include <stdlib.h>

typedef struct {
    const int8_t *x, *outside; /* outside: C codes of the padding */
    i64 N, H, W, C, R, S, stride_h, stride_w, top, left, dil_h, dil_w, spread_h, spread_w, P, Q;
} windows;

typedef struct {
    const int8_t *codes;
    i64 r, s, c, k; /* strides */
} weights;

/* out: int32 with strides (out_n, out_p, out_q, 1), of K channels. Returns 0, or 1 where memory is
 * lacking.
 */
int convolve(const windows *v, const weights *w, i64 K, int32_t *out, i64 out_n, i64 out_p,
             i64 out_q);

/* One convolve() of several. */
typedef struct {
    windows v;
    weights w;
    i64 K;
    int32_t *out;
    i64 out_n, out_p, out_q;
} product;

/* Returns as convolve(). */
int convolve_all(const product *p, i64 count);

/* Row `at` of a map of `size`, with inserted zeros; -1 outside. */
INLINE i64 position(i64 at, i64 spread, i64 size)
{
    if (at < 0)
        return -1;
    if (spread > 1) {
        if (at % spread)
            return -1;
        at /= spread;
    }
    return at < size ? at : -1;
}

INLINE void *buffer(i64 bytes)
{
    return aligned_alloc(64, groups_of(bytes, 64) * 64);
}

/* A buffer that may be of any size. */
void *large_buffer(i64 bytes);

#endif
