/* The one way out of an accumulator, saturate(round_shift(acc * m + b + (residual << r), s)).
 *
 * Exact for every int32 acc, 16-bit m, 48-bit b and sums below 2**62.
 */
#ifndef INTAGLIO_REQUANTIZE_H
#define INTAGLIO_REQUANTIZE_H

#include "tile.h"

typedef struct {
    const i64 *m, *b; /* for each channel */
    /* The same for each 16 channels, zeros beyond the last: m of the even ones, of the odd ones,
     * then b with the half of the rounding. */
    const i64 *split;
    const int8_t *residual; /* or NULL; lies as the result */
    i64 shift, residual_shift, low, high;
    i64 narrow; /* whether |acc * m + b + half| >> shift is below 2**30, for every acc */
} requantizer;

/* acc: the sums of channels [k0, k0 + count), with room up to a multiple of 16. */
INLINE void requantize_exact(const requantizer *q, const int32_t *acc, i64 k0, i64 count,
                             const int8_t *residual, int8_t *out)
{
    const i64 half = ((i64)1 << q->shift) >> 1, *m = q->m + k0, *b = q->b + k0;
    const i64 shift = q->shift, right = q->residual_shift, low = q->low, high = q->high;
    if (residual)
        for (i64 c = 0; c < count; c++) {
            const i64 t = (acc[c] * m[c] + b[c] + ((i64)residual[c] << right) + half) >> shift;
            out[c] = (int8_t)(t < low ? low : t > high ? high : t);
        }
    else
        for (i64 c = 0; c < count; c++) {
            const i64 t = (acc[c] * m[c] + b[c] + half) >> shift;
            out[c] = (int8_t)(t < low ? low : t > high ? high : t);
        }
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
/* Even and odd channels apart, as 64-bit lanes. The residual is added after the shift: with right
 * >= shift it is a multiple of 2**shift, which no rounding touches. Before that the rest is
 * saturated to 2**30, which the residual, below 2**28, cannot bring back into int8. */
INLINE void requantize_vector(const requantizer *q, const int32_t *acc, i64 k0, i64 count,
                              const int8_t *residual, int8_t *out)
{
    const __m128i shift = _mm_cvtsi64_si128(q->shift);
    const __m128i up = _mm_cvtsi64_si128(32 - q->shift), down = _mm_cvtsi64_si128(q->shift - 32);
    const __m128i more = _mm_cvtsi64_si128(q->residual_shift - q->shift);
    const __m512i low = _mm512_set1_epi32((int)q->low), high = _mm512_set1_epi32((int)q->high);
    const __m512i most = _mm512_set1_epi64(1 << 30), least = _mm512_set1_epi64(-(1 << 30));
    const int narrow = q->narrow != 0, left = q->shift <= 32;
    const i64 *table = q->split + 2 * k0;
    for (i64 c = 0; c < count; c += 16, table += 32) {
        const __mmask16 valid = (__mmask16)(count - c >= 16 ? 0xFFFF : (1 << (count - c)) - 1);
        const __m512i a = _mm512_loadu_si512(acc + c);
        __m512i even = _mm512_mul_epi32(a, _mm512_loadu_si512(table));
        __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_loadu_si512(table + 8));
        even = _mm512_add_epi64(even, _mm512_loadu_si512(table + 16));
        odd = _mm512_add_epi64(odd, _mm512_loadu_si512(table + 24));
        even = _mm512_sra_epi64(even, shift);
        if (narrow) {
            odd = left ? _mm512_sll_epi64(odd, up) : _mm512_sra_epi64(odd, down);
        } else {
            odd = _mm512_sra_epi64(odd, shift);
            even = _mm512_max_epi64(_mm512_min_epi64(even, most), least);
            odd = _mm512_max_epi64(_mm512_min_epi64(odd, most), least);
            odd = _mm512_slli_epi64(odd, 32);
        }
        __m512i v = _mm512_mask_blend_epi32(0xAAAA, even, odd);
        if (residual) {
            const __m128i z = _mm_maskz_loadu_epi8(valid, residual + c);
            v = _mm512_add_epi32(v, _mm512_sll_epi32(_mm512_cvtepi8_epi32(z), more));
        }
        v = _mm512_max_epi32(_mm512_min_epi32(v, high), low);
        _mm_mask_storeu_epi8(out + c, valid, _mm512_cvtepi32_epi8(v));
    }
}
#endif

INLINE void requantize_row(const requantizer *q, const int32_t *acc, i64 k0, i64 count,
                           const int8_t *residual, int8_t *out)
{
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    const i64 more = q->residual_shift - q->shift;
    if (!residual || (more >= 0 && more <= 20)) {
        requantize_vector(q, acc, k0, count, residual, out);
        return;
    }
#endif
    requantize_exact(q, acc, k0, count, residual, out);
}

#endif
