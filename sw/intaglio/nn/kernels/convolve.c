/* Products of a convolution on (N, H, W, C) int8 maps, without an im2col matrix in memory.
 *
 * convolve(): out[m, k] = sum over taps and channels; m runs over the output pixels. Tasks are
 * blocks of pixels: the windows of a block are gathered as A, DEPTH values of k at a time, the
 * weights are packed once as B.
 *
 * An output is the sum of R * S * C products of at most 2**14: int32 holds 2**17 of them. Callers
 * refuse more. Every element of a result is written by one thread.
 */
#include "windows.h"

enum {
    DEPTH = 512,                /* values of k in a block: a panel of B stays in the first cache */
    MOST_ROWS = 120,            /* pixels in a block: A and sums stay in the second cache */
    MOST_COLUMNS = 512,         /* output channels of one pass */
    MOST_PACKED = 16 << 20,     /* bytes of B packed at a time */
};

typedef struct {
    const int8_t *codes;
    i64 r, s, c, k; /* strides */
} weights;

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
