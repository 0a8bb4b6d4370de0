/* Vectors of LANES channels: a strip of some pixels is worked on with what belongs to its channels in
 * registers. The last strip of a map may have fewer; `count` says how many, the others are zero.
 */
#ifndef INTAGLIO_LANES_H
#define INTAGLIO_LANES_H

#include "tile.h"

typedef uint32_t unsigned_lanes __attribute__((vector_size(4 * LANES)));
typedef int16_t lanes16 __attribute__((vector_size(2 * LANES)));
typedef int8_t lanes8 __attribute__((vector_size(LANES)));

INLINE lanes load_int32_t(const int32_t *x, i64 count)
{
    lanes v = {0};
    memcpy(&v, x, count * sizeof *x);
    return v;
}

/* gcc 12 makes single moves of these conversions. */
INLINE lanes load_int16_t(const int16_t *x, i64 count)
{
    lanes16 v = {0};
    memcpy(&v, x, count * sizeof *x);
#if defined(INTAGLIO_WIDE) && defined(__AVX512F__)
    return (lanes)_mm512_cvtepi16_epi32((__m256i)v);
#elif !defined(INTAGLIO_WIDE) && defined(__AVX2__)
    return (lanes)_mm256_cvtepi16_epi32((__m128i)v);
#else
    return __builtin_convertvector(v, lanes);
#endif
}

INLINE lanes load_int8_t(const int8_t *x, i64 count)
{
#if defined(INTAGLIO_WIDE) && defined(__AVX512F__)
    __m128i v = _mm_setzero_si128();
    memcpy(&v, x, count);
    return (lanes)_mm512_cvtepi8_epi32(v);
#elif !defined(INTAGLIO_WIDE) && defined(__AVX2__)
    __m128i v = _mm_setzero_si128();
    memcpy(&v, x, count);
    return (lanes)_mm256_cvtepi8_epi32(v);
#else
    lanes8 v = {0};
    memcpy(&v, x, count);
    return __builtin_convertvector(v, lanes);
#endif
}

INLINE void store_int32_t(lanes v, int32_t *out, i64 count) { memcpy(out, &v, count * sizeof *out); }

INLINE void store_int16_t(lanes v, int16_t *out, i64 count)
{
    const lanes16 low = __builtin_convertvector(v, lanes16);
    memcpy(out, &low, count * sizeof *out);
}

INLINE void store_int8_t(lanes v, int8_t *out, i64 count)
{
    const lanes8 low = __builtin_convertvector(v, lanes8);
    memcpy(out, &low, count);
}

INLINE lanes larger(lanes a, lanes b)
{
#if defined(INTAGLIO_WIDE) && defined(__AVX512F__)
    return (lanes)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif !defined(INTAGLIO_WIDE) && defined(__AVX2__)
    return (lanes)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const lanes chosen = a > b;
    return (a & chosen) | (b & ~chosen);
#endif
}

INLINE lanes smaller(lanes a, lanes b)
{
#if defined(INTAGLIO_WIDE) && defined(__AVX512F__)
    return (lanes)_mm512_min_epi32((__m512i)a, (__m512i)b);
#elif !defined(INTAGLIO_WIDE) && defined(__AVX2__)
    return (lanes)_mm256_min_epi32((__m256i)a, (__m256i)b);
#else
    const lanes chosen = a < b;
    return (a & chosen) | (b & ~chosen);
#endif
}

INLINE lanes between(lanes v, lanes low, lanes high) { return smaller(larger(v, low), high); }

/* -1, 0 or 1. */
INLINE lanes sign(lanes v)
{
    const lanes zero = {0};
    return between(v, zero - 1, zero + 1);
}

#endif
