/* One register tile of an exact product of int8 matrices, for three kinds of processor.
 *
 * A (rows x k) and B (k x columns) are packed in groups of GROUP values of k:
 *
 *   AVX-512 VNNI  GROUP 4, A as bytes code + 128 (vpdpbusd multiplies u8 by s8), B as bytes. With
 *                 sum (a + 128) b = sum a b + 128 sum b, a panel of B starts with -128 sum b for
 *                 each of its columns. vpdpbusd does not saturate.
 *   AVX2, others  GROUP 2, both as int16 (vpmaddwd adds two products: at most 2**15, no overflow).
 *
 * Sums are int32 and wrap on the way, which is harmless: modulo 2**32 the order does not matter, and
 * the callers bound what the whole sum can be.
 */
#ifndef INTAGLIO_TILE_H
#define INTAGLIO_TILE_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef int64_t i64;
typedef uint64_t u64;

#define INLINE static inline __attribute__((always_inline))

INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }
INLINE i64 most(i64 a, i64 b) { return a > b ? a : b; }
INLINE i64 groups_of(i64 n, i64 size) { return (n + size - 1) / size; }

/* ceil(log2 x), 0 for x <= 1. */
INLINE i64 log2_ceil(i64 x) { return x <= 1 ? 0 : 64 - __builtin_clzll((u64)x - 1); }

/* The right shift that brings magnitudes up to `largest` into 8 bits: scale_shift() of the spec. */
INLINE i64 code_shift(i64 largest) { return most(log2_ceil(largest) - 7, 0); }

/* v in [-limit, limit], in two steps that are an instruction each. */
INLINE int32_t clipped_int32_t(int32_t v, int32_t limit)
{
    const int32_t below = v > limit ? limit : v;
    return below < -limit ? -limit : below;
}
INLINE i64 clipped_int64_t(i64 v, i64 limit)
{
    const i64 below = v > limit ? limit : v;
    return below < -limit ? -limit : below;
}

/* An error in front of the saturation to [low, 127] that made y; see intaglio.spec.quant. */
INLINE i64 through_saturation(i64 error, int8_t y, i64 low)
{
    const int above = y > low || (low && error < 0), below = y < 127 || error > 0;
    return above && below ? error : 0;
}

/* INTAGLIO_WIDE takes the layout of VNNI with plain arithmetic: tests of it run anywhere. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define INTAGLIO_WIDE 1
#endif

#ifdef INTAGLIO_WIDE
enum { GROUP = 4, LANES = 16, ROWS = 12, OFFSET = 128 };
typedef uint8_t a_code;
typedef int8_t b_code;
#else
enum { GROUP = 2, LANES = 8, ROWS = 6, OFFSET = 0 };
typedef int16_t a_code;
typedef int16_t b_code;
#endif

enum {
    COLUMNS = 2 * LANES,
    HEAD = OFFSET ? COLUMNS * 4 / sizeof(b_code) : 0, /* of a panel of B, in elements */
};
typedef int32_t lanes __attribute__((vector_size(4 * LANES)));

/* acc[i] += the sum over the group of a * b[i], a being the same group in every lane. */
#if defined(INTAGLIO_WIDE) && defined(__AVX512VNNI__)
INLINE lanes dot(lanes acc, int32_t a, lanes b)
{
    return (lanes)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(a), (__m512i)b);
}
#elif defined(INTAGLIO_WIDE)
INLINE lanes dot(lanes acc, int32_t a, lanes b)
{
    for (int j = 0; j < GROUP; j++)
        acc += (int32_t)((uint32_t)a >> 8 * j & 255) * ((b << (24 - 8 * j)) >> 24);
    return acc;
}
#elif defined(__AVX2__)
INLINE lanes dot(lanes acc, int32_t a, lanes b)
{
    return acc + (lanes)_mm256_madd_epi16(_mm256_set1_epi32(a), (__m256i)b);
}
#else
INLINE lanes dot(lanes acc, int32_t a, lanes b)
{
    return acc + (int32_t)(int16_t)a * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
#endif

/* acc[i] = the sum over the groups of A[i, .] B[., j], for the first `rows` rows of a tile.
 *
 * a: element (i, group g, j) lies at i * row + g * step + j, or at i * row + at[g] + j where `at` is
 * given. b: a panel, HEAD first.
 */
INLINE void products(const a_code *a, i64 row, i64 step, const i64 *at, const b_code *b, i64 groups,
                     int rows, lanes acc[ROWS][2])
{
    lanes first = {0}, second = {0};
    if (HEAD) {
        memcpy(&first, b, sizeof first);
        memcpy(&second, (const char *)b + sizeof first, sizeof second);
        b += HEAD;
    }
    for (int i = 0; i < rows; i++) {
        acc[i][0] = first;
        acc[i][1] = second;
    }
    for (i64 g = 0; g < groups; g++, b += COLUMNS * GROUP) {
        const a_code *from = a + (at ? at[g] : g * step);
        lanes b0, b1;
        memcpy(&b0, b, sizeof b0);
        memcpy(&b1, b + LANES * GROUP, sizeof b1);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            int32_t v;
            memcpy(&v, from + i * row, sizeof v);
            acc[i][0] = dot(acc[i][0], v, b0);
            acc[i][1] = dot(acc[i][1], v, b1);
        }
    }
}

/* out (+)= a row of a tile. */
INLINE void put(lanes acc[2], int32_t *out, int add)
{
    if (add) {
        lanes c0, c1;
        memcpy(&c0, out, sizeof c0);
        memcpy(&c1, out + LANES, sizeof c1);
        acc[0] += c0;
        acc[1] += c1;
    }
    memcpy(out, &acc[0], sizeof acc[0]);
    memcpy(out + LANES, &acc[1], sizeof acc[1]);
}

/* out[i, j] (+)= the first rows, a constant, of a tile of products(), whose groups start at at[.]. */
INLINE void tile(const a_code *a, i64 row, const i64 *at, const b_code *b, i64 groups, int rows,
                 int32_t *out, i64 pitch, int add)
{
    lanes acc[ROWS][2];
    products(a, row, 0, at, b, groups, rows, acc);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
        put(acc[i], out + i * pitch, add);
}

/* As tile(), with rows anywhere: row i of the result starts at out[i] + at. */
INLINE void tile_rows(const a_code *a, i64 row, const b_code *b, i64 groups, int32_t *const *out,
                      i64 at, int add)
{
    lanes acc[ROWS][2];
    if (!add) /* what is written for the first time is far away */
        for (int i = 0; i < ROWS; i++) {
            __builtin_prefetch(out[i] + at, 1, 2);
            __builtin_prefetch(out[i] + at + LANES, 1, 2);
        }
    products(a, row, GROUP, NULL, b, groups, ROWS, acc);
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
        put(acc[i], out[i] + at, add);
}

/* Codes as A wants them. */
INLINE void widen(const int8_t *restrict x, a_code *restrict out, i64 count)
{
    for (i64 i = 0; i < count; i++)
        out[i] = (a_code)(x[i] + OFFSET);
}

#ifdef INTAGLIO_WIDE
static const lanes EACH = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* OFFSET times the sum of the codes of each group. */
INLINE lanes offset_sums(lanes b) { return dot((lanes){0}, (int32_t)(OFFSET * 0x01010101u), b); }

/* Transpose 16 x 16 groups: group j of x[i] and group i of x[j] change places. */
INLINE void turn_groups(lanes x[LANES])
{
#pragma GCC unroll 4
    for (int apart = LANES / 2; apart; apart /= 2) {
        const lanes swapped = (EACH & apart) != 0;
        const lanes low = EACH + (swapped & (LANES - apart)), high = low + apart;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & apart)) {
                const lanes a = x[i], b = x[i + apart];
                x[i] = __builtin_shuffle(a, b, low);
                x[i + apart] = __builtin_shuffle(a, b, high);
            }
    }
}

/* Pack LANES groups of COLUMNS columns of B, which are `apart` codes from each other, into their place
 * in every group; head -= 128 times the sums of their codes.
 */
INLINE void pack_groups(const int8_t *columns, i64 apart, b_code *out, int32_t *head)
{
    for (int half = 0; half < 2; half++) {
        lanes x[LANES], sum;
        memcpy(&sum, head + half * LANES, sizeof sum);
        for (int i = 0; i < LANES; i++)
            memcpy(&x[i], columns + (half * LANES + i) * apart, sizeof x[i]);
        turn_groups(x);
        for (int i = 0; i < LANES; i++) {
            memcpy(out + (2 * i + half) * LANES * GROUP, &x[i], sizeof x[i]);
            sum -= offset_sums(x[i]);
        }
        memcpy(head + half * LANES, &sum, sizeof sum);
    }
}
#endif

/* Scatter a column of B into its place in every group; returns the sum of its codes. */
INLINE int32_t pack_column(const int8_t *x, i64 count, b_code *out)
{
    const i64 whole = count / GROUP * GROUP;
    int32_t sum = 0;
    for (i64 i = 0; i < whole; i += GROUP, out += COLUMNS * GROUP) {
        b_code four[GROUP];
        for (int j = 0; j < GROUP; j++)
            four[j] = x[i + j];
        memcpy(out, four, sizeof four);
    }
    for (i64 i = whole; i < count; i++)
        out[i - whole] = x[i];
    if (HEAD)
        for (i64 i = 0; i < count; i++)
            sum += x[i];
    return sum;
}

#if defined(INTAGLIO_WIDE) && defined(__AVX512VBMI__)
INLINE __m512i beside(const int8_t *a, const int8_t *b)
{
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
    return _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)b), 1);
}
#endif

/* Interleave GROUP rows: out[i * GROUP + j] = rows[j][i], and head[i] -= 128 times their sum. */
INLINE void interleave_columns(const int8_t *const rows[GROUP], i64 columns, b_code *out,
                               int32_t *head)
{
    const int bits = 32 / GROUP;
    uint32_t words[COLUMNS] = {0}; /* a group each */
#if defined(INTAGLIO_WIDE) && defined(__AVX512VBMI__)
    if (columns == COLUMNS) { /* two rows side by side, and then any byte of them in one step */
        const __m512i a = beside(rows[0], rows[1]), b = beside(rows[2], rows[3]);
        for (int half = 0; half < 2; half++) { /* byte j of group i is number 32 j + i of both */
            const lanes order = (EACH + half * LANES) * 0x01010101 + 0x60402000;
            const __m512i turned = _mm512_permutex2var_epi8(a, (__m512i)order, b);
            memcpy(words + half * LANES, &turned, sizeof turned);
        }
    } else
#endif
        for (i64 i = 0; i < columns; i++)
            for (int j = 0; j < GROUP; j++)
                words[i] |= ((uint32_t)rows[j][i] & (((uint32_t)1 << bits) - 1)) << bits * j;
    memcpy(out, words, sizeof words);
#ifdef INTAGLIO_WIDE
    lanes b[2], sum[2];
    memcpy(b, words, sizeof b);
    memcpy(sum, head, sizeof sum);
    sum[0] -= offset_sums(b[0]);
    sum[1] -= offset_sums(b[1]);
    memcpy(head, sum, sizeof sum);
#else
    (void)head;
#endif
}

/* One group of k of a panel of B that has `columns` columns, the others zero. */
INLINE void interleave(const int8_t *const rows[GROUP], i64 columns, b_code *out, int32_t *head)
{
    if (columns == COLUMNS) { /* a constant: unrolled */
        interleave_columns(rows, COLUMNS, out, head);
        return;
    }
    interleave_columns(rows, columns, out, head);
}

#endif
