/* The windows of a convolution on (N, H, W, C) int8 maps, where they lie. */
#ifndef INTAGLIO_WINDOWS_H
#define INTAGLIO_WINDOWS_H

#include "tile.h"

#include <stdlib.h>

typedef struct {
    const int8_t *x, *outside; /* outside: C codes of the padding */
    i64 N, H, W, C, R, S, stride_h, stride_w, top, left, dil_h, dil_w, spread_h, spread_w, P, Q;
} windows;

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

INLINE const int8_t *pixel(const windows *v, i64 n, i64 p, i64 q, i64 r, i64 s)
{
    const i64 h = position(p * v->stride_h - v->top + r * v->dil_h, v->spread_h, v->H);
    const i64 w = position(q * v->stride_w - v->left + s * v->dil_w, v->spread_w, v->W);
    return h < 0 || w < 0 ? v->outside : v->x + ((n * v->H + h) * v->W + w) * v->C;
}

INLINE void *buffer(i64 bytes)
{
    return aligned_alloc(64, groups_of(bytes, 64) * 64);
}

#endif
