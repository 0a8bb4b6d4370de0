/* The variants of integer training: the functions of intaglio.nn.variants, byte for byte.
 *
 * Errors E2 of 8, 9 and 16 bits with three roundings, from wide errors or from those of batch norm,
 * and the squares of L2 batch norm. A row is the channels of one pixel; sums are i64, and an element
 * draws its random word by its index, so that the partition over threads does not matter.
 */
#include "words.h"

#include <stdlib.h>

enum { NEAREST, STOCHASTIC, DIFFUSION };
enum { CODE_LIMIT = 127, WIDE_LIMIT = (127 << 8) + 127, FLAG_SHIFT = 7 };

/* Where rows come from: a wide error behind a saturation or none, or the error dy of batch norm. */
typedef struct {
    const i64 *wide;
    const int8_t *y, *error;
    i64 low;
    const int16_t *xhat;
    const i64 *m0, *m1, *m2, *factors;
    i64 signs; /* the derivative of an L1 deviation, else that of a standard deviation */
} source;

static void fetch(const source *s, i64 at, i64 C, i64 *row)
{
    if (s->wide) {
        memcpy(row, s->wide + at, C * sizeof *row);
        for (i64 c = 0; s->y && c < C; c++)
            row[c] = through_saturation(row[c], s->y[at + c], s->low);
        return;
    }
    const int8_t *e = s->error + at;
    const int16_t *x = s->xhat + at;
    if (s->signs)
        for (i64 c = 0; c < C; c++) {
            const i64 sign = (x[c] > 0) - (x[c] < 0);
            row[c] = (((i64)e[c] << 16) - s->m0[c] - sign * s->m1[c] + s->m2[c]) * s->factors[c];
        }
    else
        for (i64 c = 0; c < C; c++) {
            const i64 product = (x[c] * s->m1[c] + (1 << 11)) >> 12;
            row[c] = (((i64)e[c] << 16) - s->m0[c] - product) * s->factors[c];
        }
}

/* The random words of a row: element c has index (n * C + c) * pixels + p, and first[c] is the
 * counter at p = 0.
 */
INLINE void draw(const u64 *first, i64 p, i64 C, u64 *words)
{
    for (i64 c = 0; c < C; c++)
        words[c] = finish(first[c] + (u64)p * GAMMA);
}

INLINE i64 clip(i64 x, i64 limit) { return x < -limit ? -limit : x > limit ? limit : x; }

/* rest: what diffusion has left over, its half included. */
INLINE i64 rounded(i64 v, i64 shift, u64 word, i64 *rest, int rounding)
{
    const i64 unit = (i64)1 << shift;
    if (rounding == NEAREST)
        return (v + (unit >> 1)) >> shift;
    if (rounding == STOCHASTIC)
        return (v + (i64)(word & (u64)(unit - 1))) >> shift;
    const i64 sum = *rest + v, code = sum >> shift;
    *rest = sum & (unit - 1);
    return code;
}

INLINE void digits(const i64 *row, i64 shift, const u64 *words, i64 *rest, int8_t *high, int8_t *low,
                   i64 C, int bits, int rounding)
{
    const i64 small = (i64)CODE_LIMIT << shift;
    for (i64 c = 0; c < C; c++) {
        const i64 v = row[c];
        const u64 word = rounding == STOCHASTIC ? words[c] : 0;
        if (bits == 8) {
            low[c] = (int8_t)clip(rounded(v, shift, word, rest + c, rounding), CODE_LIMIT);
        } else if (bits == 16) {
            const i64 code = clip(rounded(v, shift, word, rest + c, rounding), WIDE_LIMIT);
            const i64 upper = (code + 128) >> 8;
            high[c] = (int8_t)upper;
            low[c] = (int8_t)(code - (upper << 8));
        } else {
            const i64 fine = v >= -small && v <= small ? v : 0, coarse = v - fine;
            high[c] = (int8_t)clip(
                rounded(coarse, shift + FLAG_SHIFT, word, rest + C + c, rounding), CODE_LIMIT);
            low[c] = (int8_t)clip(rounded(fine, shift, word, rest + c, rounding), CODE_LIMIT);
        }
    }
}

INLINE void digits_of(int bits, const i64 *row, i64 shift, const u64 *words, i64 *rest, int8_t *high,
                      int8_t *low, i64 C, i64 rounding)
{
    if (rounding == NEAREST)
        digits(row, shift, words, rest, high, low, C, bits, NEAREST);
    else if (rounding == STOCHASTIC)
        digits(row, shift, words, rest, high, low, C, bits, STOCHASTIC);
    else
        digits(row, shift, words, rest, high, low, C, bits, DIFFUSION);
}

/* Digits of `bits` bits for a right shift; returns the largest magnitude before it, -1 without
 * memory. first: index of the first random word. Diffusion runs along `pixels`: those of an image,
 * in 1x1 maps those of the batch, for which `scans` is 1. One digit of 8 bits is `low`.
 */
i64 error_digits(const i64 *wide, const int8_t *y, i64 least_code, const int8_t *error,
                 const int16_t *xhat, const i64 *m0, const i64 *m1, const i64 *m2,
                 const i64 *factors, i64 signs, i64 bits, i64 rounding, i64 shift, u64 key,
                 i64 first, int8_t *high, int8_t *low, i64 scans, i64 pixels, i64 C)
{
    const source s = {wide, y, error, least_code, xhat, m0, m1, m2, factors, signs};
    i64 maximum = 0;
    int failed = 0;
    /* Without diffusion every pixel stands by itself. */
    const i64 pieces = rounding == DIFFUSION ? 1 : least(pixels, 16);
#pragma omp parallel reduction(max : maximum) reduction(| : failed)
    {
        i64 *row = malloc(6 * C * sizeof *row), *top = row + C, *rest = row + 2 * C;
        u64 *from = (u64 *)row + 4 * C, *words = (u64 *)row + 5 * C;
        failed = !row;
        if (row)
            memset(top, 0, C * sizeof *top);
#pragma omp for collapse(2) schedule(static)
        for (i64 n = 0; n < scans; n++)
            for (i64 piece = 0; piece < pieces; piece++) {
                if (failed)
                    continue;
                for (i64 c = 0; c < C; c++) {
                    rest[c] = ((i64)1 << shift) >> 1;
                    rest[C + c] = ((i64)1 << (shift + FLAG_SHIFT)) >> 1;
                    from[c] = key + (u64)(first + (n * C + c) * pixels + 1) * GAMMA;
                }
                const i64 end = (piece + 1) * pixels / pieces;
                for (i64 p = piece * pixels / pieces; p < end; p++) {
                    const i64 at = (n * pixels + p) * C;
                    fetch(&s, at, C, row);
                    for (i64 c = 0; c < C; c++)
                        top[c] = most(top[c], row[c] < 0 ? -row[c] : row[c]);
                    if (rounding == STOCHASTIC)
                        draw(from, p, C, words);
                    if (bits == 8)
                        digits_of(8, row, shift, words, rest, high, low + at, C, rounding);
                    else if (bits == 9)
                        digits_of(9, row, shift, words, rest, high + at, low + at, C, rounding);
                    else
                        digits_of(16, row, shift, words, rest, high + at, low + at, C, rounding);
                }
            }
        for (i64 c = 0; !failed && c < C; c++)
            maximum = most(maximum, top[c]);
        free(row);
    }
    return failed ? -1 : maximum;
}

/* Per channel the sums of h * h, h * l and l * l with |acc - mean| = 65536 h + l: squares need more
 * than 64 bits. Returns -1 without memory.
 */
i64 square_sums(const int32_t *acc, const i64 *mean, i64 *sums, i64 M, i64 C)
{
    int failed = 0;
    memset(sums, 0, 3 * C * sizeof *sums);
#pragma omp parallel reduction(| : failed)
    {
        i64 *mine = calloc(3 * C, sizeof *mine);
        failed = !mine;
#pragma omp for schedule(static)
        for (i64 i = 0; i < M; i++) {
            if (failed)
                continue;
            for (i64 c = 0; c < C; c++) {
                const i64 d = acc[i * C + c] - mean[c], a = d < 0 ? -d : d;
                const i64 h = a >> 16, l = a & 65535;
                mine[c] += h * h;
                mine[C + c] += h * l;
                mine[2 * C + c] += l * l;
            }
        }
        if (!failed)
#pragma omp critical
            for (i64 c = 0; c < 3 * C; c++)
                sums[c] += mine[c];
        free(mine);
    }
    return failed ? -1 : 0;
}

/* x = floor((x + u) / 2**shift), u the lowest bits of the random word of the element. */
void stochastic_shift(i64 *x, i64 shift, u64 key, i64 count)
{
    const u64 mask = ((u64)1 << shift) - 1;
#pragma omp parallel for schedule(static)
    for (i64 i = 0; i < count; i++)
        x[i] = (x[i] + (i64)(finish(key + (u64)(i + 1) * GAMMA) & mask)) >> shift;
}
