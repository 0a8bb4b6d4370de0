/* Kernels lie as (channels, taps) in masters and gradients, as (taps, channels) in products: from one
 * to the other, bytes that are `taps` apart would go one by one.
 */
#ifndef INTAGLIO_TAPS_H
#define INTAGLIO_TAPS_H

#include "tile.h"

enum { STRIPE = 64 }; /* channels that are turned at a time, with 8 taps */
typedef u64 stripe __attribute__((vector_size(STRIPE)));

/* Transpose the 8 x 8 bytes of each lane: byte j of x[i] and byte i of x[j] change places. */
INLINE void turn(stripe x[8])
{
    const u64 masks[3] = {0x00000000FFFFFFFFu, 0x0000FFFF0000FFFFu, 0x00FF00FF00FF00FFu};
#pragma GCC unroll 3
    for (int level = 0; level < 3; level++) {
        const int apart = 4 >> level, bits = 8 * apart;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            if (!(i & apart)) {
                const stripe other = ((x[i] >> bits) ^ x[i + apart]) & masks[level];
                x[i + apart] ^= other;
                x[i] ^= other << bits;
            }
    }
}

/* out[c * taps + t] = x[t * pitch + c], for n channels. */
INLINE void taps_inside_int16_t(const int16_t *x, i64 pitch, i64 n, i64 taps, int16_t *out)
{
    for (i64 c = 0; c < n; c++, out += taps)
        for (i64 t = 0; t < taps; t++)
            out[t] = x[t * pitch + c];
}

INLINE void taps_inside_int8_t(const int8_t *x, i64 pitch, i64 n, i64 taps, int8_t *out)
{
    i64 c = 0;
    for (; c + STRIPE <= n && taps >= 8; c += STRIPE, out += STRIPE * taps) {
        i64 t = 0;
        for (; t + 8 <= taps; t += 8) {
            stripe v[8];
            for (int i = 0; i < 8; i++)
                memcpy(&v[i], x + (t + i) * pitch + c, sizeof v[i]);
            turn(v); /* lane g of v[i]: the taps of channel 8 g + i */
            u64 words[8][8];
            memcpy(words, v, sizeof words);
            for (int i = 0; i < 8; i++)
                for (int g = 0; g < 8; g++)
                    memcpy(out + (8 * g + i) * taps + t, &words[i][g], 8);
        }
        for (; t < taps; t++)
            for (int i = 0; i < STRIPE; i++)
                out[i * taps + t] = x[t * pitch + c + i];
    }
    for (; c < n; c++, out += taps)
        for (i64 t = 0; t < taps; t++)
            out[t] = x[t * pitch + c];
}

/* out[t * pitch + c] = x[c * taps + t], for n channels. */
INLINE void taps_outside(const int8_t *x, i64 n, i64 taps, int8_t *out, i64 pitch)
{
    i64 c = 0;
    for (; c + STRIPE <= n && taps >= 8; c += STRIPE, x += STRIPE * taps) {
        i64 t = 0;
        for (; t + 8 <= taps; t += 8) {
            u64 words[8][8];
            for (int i = 0; i < 8; i++)
                for (int g = 0; g < 8; g++)
                    memcpy(&words[i][g], x + (8 * g + i) * taps + t, 8);
            stripe v[8];
            memcpy(v, words, sizeof v);
            turn(v);
            for (int i = 0; i < 8; i++)
                memcpy(out + (t + i) * pitch + c, &v[i], sizeof v[i]);
        }
        for (; t < taps; t++)
            for (int i = 0; i < STRIPE; i++)
                out[t * pitch + c + i] = x[i * taps + t];
    }
    for (; c < n; c++, x += taps)
        for (i64 t = 0; t < taps; t++)
            out[t * pitch + c] = x[t];
}

#endif
