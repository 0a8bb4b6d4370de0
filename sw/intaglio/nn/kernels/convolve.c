/* Products of a convolution on (N, H, W, C) int8 maps, without an im2col matrix in memory.
 *
 * convolve(): out[m, k] = sum over taps and channels; m runs over the output pixels. Tasks are
 * blocks of pixels: the windows of a block are gathered as A, DEPTH values of k at a time, the
 * weights are packed once as B. weight_gradient(): the sum over the pixels of error times input.
 *
 * An output is the sum of R * S * C products of at most 2**14: int32 holds 2**17 of them. Callers
 * refuse more. Every element of a result is written by one thread.
 */
#include "tile.h"

#include <stdlib.h>

enum {
    DEPTH = 512,                /* values of k in a block: a panel of B stays in the first cache */
    MOST_ROWS = 120,            /* pixels in a block: A and sums stay in the second cache */
    MOST_COLUMNS = 512,         /* output channels of one pass */
    MOST_PACKED = 16 << 20,     /* bytes of B packed at a time */
};

typedef struct {
    const int8_t *x, *outside; /* outside: C codes of the padding */
    i64 N, H, W, C, R, S, stride_h, stride_w, top, left, dil_h, dil_w, spread_h, spread_w, P, Q;
} windows;

typedef struct {
    const int8_t *codes;
    i64 r, s, c, k; /* strides */
} weights;

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

/* Groups [from, to) of the window at output (n, p, q), in order r, s, c; taps fill whole groups. */
static void gather_window(const windows *v, i64 n, i64 p, i64 q, i64 from, i64 to, a_code *out)
{
    const i64 per_tap = groups_of(v->C, GROUP);
    i64 tap = from / per_tap, first = from % per_tap;
    i64 r = tap / v->S, s = tap % v->S;
    for (i64 g = from; g < to;) {
        const i64 last = least(per_tap, first + to - g);
        const i64 c = first * GROUP, count = least(v->C, last * GROUP) - c;
        widen(pixel(v, n, p, q, r, s) + c, out, count);
        for (i64 i = count; i < (last - first) * GROUP; i++)
            out[i] = OFFSET;
        out += (last - first) * GROUP;
        g += last - first;
        first = 0;
        if (++s == v->S) {
            s = 0;
            r++;
        }
    }
}

/* The input pixels that tap (r, s) meets at outputs [m0, m0 + count). */
static void tap_pixels(const windows *v, i64 r, i64 s, i64 m0, i64 count, const int8_t **out)
{
    i64 q = m0 % v->Q, p = m0 / v->Q % v->P, n = m0 / v->Q / v->P;
    for (i64 i = 0; i < count; i++) {
        out[i] = pixel(v, n, p, q, r, s);
        if (++q == v->Q) {
            q = 0;
            if (++p == v->P) {
                p = 0;
                n++;
            }
        }
    }
}

/* Pack columns [k0, k0 + columns) and groups [from, to) of the weights as a panel of B. */
static void pack_weights(const weights *w, i64 C, i64 S, i64 k0, i64 columns, i64 from, i64 to,
                         b_code *out)
{
    int32_t *head = (int32_t *)out;
    const i64 per_tap = groups_of(C, GROUP);
    static const int8_t zeros[COLUMNS];
    memset(out, 0, HEAD * sizeof *out);
    out += HEAD;
    for (i64 g = from; g < to; g++, out += COLUMNS * GROUP) {
        const i64 tap = g / per_tap, c = g % per_tap * GROUP;
        const int8_t *at = w->codes + tap / S * w->r + tap % S * w->s + c * w->c + k0 * w->k;
        const i64 count = least(GROUP, C - c);
        if (w->k == 1) {
            const int8_t *rows[GROUP];
            for (int j = 0; j < GROUP; j++)
                rows[j] = j < count ? at + j * w->c : zeros;
            interleave(rows, columns, out, head);
            continue;
        }
        memset(out, 0, COLUMNS * GROUP * sizeof *out);
        for (i64 i = 0; i < columns; i++)
            for (i64 j = 0; j < count; j++) {
                const int8_t code = at[i * w->k + j * w->c];
                out[i * GROUP + j] = code;
                if (HEAD)
                    head[i] -= OFFSET * code;
            }
    }
}

static void *buffer(i64 bytes)
{
    return aligned_alloc(64, groups_of(bytes, 64) * 64);
}

/* Pixels of a task: a multiple of ROWS, about as many tasks for every thread. */
static i64 block_rows(i64 M)
{
    const i64 tasks = groups_of(groups_of(M, MOST_ROWS), 8) * 8;
    return groups_of(groups_of(M, tasks), ROWS) * ROWS;
}

/* One block of pixels [m0, m1) times the packed columns. */
static void block(const windows *v, i64 m0, i64 m1, const b_code *packed, i64 groups, i64 panels,
                  a_code *a, int32_t *sums, i64 pitch)
{
    const i64 deep = DEPTH / GROUP, row = DEPTH + 64 / sizeof(a_code);
    for (i64 from = 0; from < groups; from += deep) {
        const i64 to = least(groups, from + deep);
        const i64 size = HEAD + (to - from) * COLUMNS * GROUP;
        i64 q = m0 % v->Q, p = m0 / v->Q % v->P, n = m0 / v->Q / v->P;
        for (i64 m = m0; m < m1; m++) {
            gather_window(v, n, p, q, from, to, a + (m - m0) * row);
            if (++q == v->Q) {
                q = 0;
                if (++p == v->P) {
                    p = 0;
                    n++;
                }
            }
        }
        for (i64 j = 0; j < panels; j++, packed += size)
            for (i64 i = 0; i < m1 - m0; i += ROWS)
                tile(a + i * row, row, GROUP, packed, to - from, sums + i * pitch + j * COLUMNS,
                     pitch, from > 0);
    }
}

/* out has strides (out_n, out_p, out_q, 1). Returns 0, or 1 where memory is lacking. */
int convolve(const windows *v, const weights *w, i64 K, int32_t *out, i64 out_n, i64 out_p,
             i64 out_q)
{
    const i64 M = v->N * v->P * v->Q, groups = v->R * v->S * groups_of(v->C, GROUP);
    const i64 deep = DEPTH / GROUP, blocks = groups_of(groups, deep);
    /* Bytes of a panel of all k. */
    const i64 whole = (blocks * HEAD + groups * COLUMNS * GROUP) * (i64)sizeof(b_code);
    const i64 chunk = most(1, least(least(MOST_COLUMNS / COLUMNS, MOST_PACKED / whole),
                                    groups_of(K, COLUMNS)));
    const i64 rows = block_rows(M), pitch = chunk * COLUMNS;
    /* Whole tiles are written in place where the pixels of out follow each other. */
    const int dense = out_p == v->Q * out_q && out_n == v->P * out_p;
    b_code *packed = buffer(chunk * whole);
    int failed = !packed;
#pragma omp parallel
    {
        a_code *a = buffer(rows * (DEPTH * sizeof *a + 64));
        int32_t *sums = buffer(rows * pitch * sizeof *sums);
        if (!a || !sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        for (i64 k0 = 0; k0 < K && !failed; k0 += pitch) {
            const i64 columns = least(pitch, K - k0), panels = groups_of(columns, COLUMNS);
#pragma omp for collapse(2) schedule(static)
            for (i64 b = 0; b < blocks; b++)
                for (i64 j = 0; j < panels; j++) {
                    const i64 from = b * deep, to = least(groups, from + deep);
                    const i64 size = HEAD + (to - from) * COLUMNS * GROUP;
                    b_code *panel = packed + panels * b * (HEAD + deep * COLUMNS * GROUP) + j * size;
                    pack_weights(w, v->C, v->S, k0 + j * COLUMNS,
                                 least(COLUMNS, columns - j * COLUMNS), from, to, panel);
                }
#pragma omp for schedule(dynamic)
            for (i64 m0 = 0; m0 < M; m0 += rows) {
                const i64 m1 = least(M, m0 + rows);
                if (dense && (m1 - m0) % ROWS == 0 && columns % COLUMNS == 0) {
                    block(v, m0, m1, packed, groups, panels, a, out + m0 * out_q + k0, out_q);
                    continue;
                }
                block(v, m0, m1, packed, groups, panels, a, sums, pitch);
                for (i64 m = m0; m < m1; m++) {
                    const i64 q = m % v->Q, p = m / v->Q % v->P, n = m / v->Q / v->P;
                    memcpy(out + n * out_n + p * out_p + q * out_q + k0, sums + (m - m0) * pitch,
                           columns * sizeof *out);
                }
            }
        }
        free(a);
        free(sums);
    }
    free(packed);
    return failed;
}

enum {
    PIXELS = 512, /* in a panel: it stays in the first cache */
    PARTS = 8,    /* panels of pixels between two barriers */
    SPAN = 8,     /* columns of panels for which the pixels of a tap are looked up once */
};

/* Pack a GROUP of pixels of the error, the K channels in panels of ROWS: (panel, group, row, j).
 *
 * line: room for K + ROWS groups.
 */
static void pack_error(const int8_t *const rows[GROUP], i64 K, i64 groups, a_code *line,
                       a_code *out)
{
    for (i64 k = 0; k < K; k++)
        for (int j = 0; j < GROUP; j++)
            line[k * GROUP + j] = (a_code)(rows[j][k] + OFFSET);
    for (i64 k = 0; k < K; k += ROWS)
        memcpy(out + k * groups * GROUP, line + k * GROUP, ROWS * GROUP * sizeof *line);
}

/* out[k, c] (+)= the sum over the pixels of e[m, k] x[m, c]; at: the pixels of x. */
static void gradient_panel(const int8_t *const *at, const int8_t *outside, i64 c, i64 columns,
                           i64 pixels, const a_code *error, i64 K, b_code *b, int32_t *out,
                           i64 pitch, int add)
{
    const i64 groups = groups_of(pixels, GROUP);
    memset(b, 0, HEAD * sizeof *b);
    for (i64 g = 0; g < groups; g++) {
        const int8_t *rows[GROUP];
        for (int j = 0; j < GROUP; j++)
            rows[j] = (g * GROUP + j < pixels ? at[g * GROUP + j] : outside) + c;
        interleave(rows, columns, b + HEAD + g * COLUMNS * GROUP, (int32_t *)b);
    }
    for (i64 k = 0; k < K; k += ROWS) {
        const a_code *a = error + k * groups * GROUP;
        if (columns == COLUMNS && k + ROWS <= K) {
            tile(a, GROUP, ROWS * GROUP, b, groups, out + k * pitch, pitch, add);
            continue;
        }
        int32_t part[ROWS * COLUMNS];
        tile(a, GROUP, ROWS * GROUP, b, groups, part, COLUMNS, 0);
        for (i64 i = 0; i < least(ROWS, K - k); i++)
            for (i64 j = 0; j < columns; j++) {
                int32_t *y = out + (k + i) * pitch + j;
                *y = part[i * COLUMNS + j] + (add ? *y : 0);
            }
    }
}

/* out: int32 (K, R, S, C); at most 2**17 output pixels, padding code 0. Returns as convolve. */
int weight_gradient(const windows *v, const int8_t *e, i64 K, int32_t *out)
{
    const i64 M = v->N * v->P * v->Q, panels = groups_of(v->C, COLUMNS);
    const i64 spans = groups_of(panels, SPAN), pitch = v->R * v->S * v->C;
    const i64 whole = groups_of(K, ROWS) * ROWS * PIXELS; /* codes of a panel of pixels */
    a_code *error = buffer(PARTS * whole * sizeof *error);
    int8_t *zeros = calloc(K, 1);
    int failed = !error || !zeros;
#pragma omp parallel
    {
        b_code *b = buffer((HEAD + PIXELS * COLUMNS) * sizeof *b);
        a_code *line = calloc((K + ROWS) * GROUP, sizeof *line);
        if (!b || !line) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        for (i64 start = 0; start < M && !failed; start += PARTS * PIXELS) {
            const i64 end = least(M, start + PARTS * PIXELS);
#pragma omp for schedule(static)
            for (i64 m = start; m < end; m += GROUP) {
                const i64 part = (m - start) / PIXELS, m0 = start + part * PIXELS;
                const int8_t *rows[GROUP];
                for (int j = 0; j < GROUP; j++)
                    rows[j] = m + j < end ? e + (m + j) * K : zeros;
                pack_error(rows, K, groups_of(least(PIXELS, end - m0), GROUP), line,
                           error + part * whole + (m - m0) * ROWS);
            }
#pragma omp for schedule(dynamic)
            for (i64 task = 0; task < v->R * v->S * spans; task++) {
                const i64 tap = task / spans, from = task % spans * SPAN;
                for (i64 m0 = start; m0 < end; m0 += PIXELS) {
                    const int8_t *at[PIXELS];
                    const i64 pixels = least(PIXELS, end - m0);
                    tap_pixels(v, tap / v->S, tap % v->S, m0, pixels, at);
                    for (i64 j = from; j < least(panels, from + SPAN); j++)
                        gradient_panel(at, v->outside, j * COLUMNS,
                                       least(COLUMNS, v->C - j * COLUMNS), pixels,
                                       error + (m0 - start) / PIXELS * whole, K, b,
                                       out + tap * v->C + j * COLUMNS, pitch, m0 > 0);
                }
            }
        }
        free(b);
        free(line);
    }
    free(error);
    free(zeros);
    return failed;
}
