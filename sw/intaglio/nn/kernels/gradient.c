/* The weight gradient of a convolution on (N, H, W, C) int8 maps: the sum over the output pixels of
 * error times input.
 *
 * An output is the sum of at most 2**17 products of at most 2**14, which int32 holds. Callers refuse
 * more pixels. Every element of the result is written by one thread.
 */
#include "windows.h"

enum {
    PIXELS = 704, /* most in a panel: it stays in the first cache */
    PARTS = 8,    /* panels of pixels between two barriers */
    SPAN = 8,     /* most columns of panels for which the pixels of a tap are looked up once */
    TASKS = 32,   /* where there are as many panels: a thread that is late is waited for */
};

/* The groups of a panel of pixels that a tap meets inside of the map: the others add nothing. */
typedef struct {
    i64 groups;
    i64 error[PIXELS / GROUP];   /* where the error's codes start in their panel */
    const int8_t *pixel[PIXELS]; /* the pixels of the input, `outside` where there is none */
} living;

/* Output pixels are taken in order p, q, n: at a place of the map all images meet padding, or none, and
 * a GROUP of pixels is left out as a whole.
 */
typedef struct {
    i64 n, q, p;
} output;

INLINE output output_at(const windows *v, i64 m)
{
    return (output){m % v->N, m / v->N % v->Q, m / v->N / v->Q};
}

INLINE void next_output(const windows *v, output *at)
{
    if (++at->n < v->N)
        return;
    at->n = 0;
    if (++at->q < v->Q)
        return;
    at->q = 0;
    at->p++;
}

/* Find what tap (r, s) meets at outputs [m0, m0 + count). */
static void tap_pixels(const windows *v, i64 r, i64 s, i64 m0, i64 count, living *out)
{
    const int8_t *at[PIXELS + GROUP];
    const i64 image = v->H * v->W * v->C;
    output o = output_at(v, m0);
    for (i64 i = 0; i < count;) { /* what is left of the images at a place */
        const i64 h = o.p * v->stride_h - v->top + r * v->dil_h;
        const i64 w = o.q * v->stride_w - v->left + s * v->dil_w;
        const int meets = h >= 0 && h < v->H && w >= 0 && w < v->W;
        const i64 step = meets ? image : 0, end = least(count, i + v->N - o.n);
        const int8_t *x = meets ? v->x + o.n * image + (h * v->W + w) * v->C : v->outside;
        for (; i < end; x += step)
            at[i++] = x;
        o.n = v->N - 1;
        next_output(v, &o);
    }
    for (i64 i = count; i < count + GROUP; i++)
        at[i] = v->outside;
    out->groups = 0;
    for (i64 i = 0; i < count; i += GROUP) {
        int inside = 0;
        for (int j = 0; j < GROUP; j++)
            inside |= at[i + j] != v->outside;
        if (!inside)
            continue;
        memcpy(out->pixel + out->groups * GROUP, at + i, GROUP * sizeof *at);
        out->error[out->groups++] = i * ROWS;
    }
}

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

/* out[k, c] (+)= the sum over the pixels of e[m, k] x[m, c]; the panel of the error has `groups`. */
static void gradient_panel(const living *at, i64 c, i64 columns, const a_code *error, i64 groups,
                           i64 K, b_code *b, int32_t *out, i64 pitch, int add)
{
    memset(b, 0, HEAD * sizeof *b);
    for (i64 g = 0; g < at->groups; g++) {
        const int8_t *rows[GROUP];
        for (int j = 0; j < GROUP; j++)
            rows[j] = at->pixel[g * GROUP + j] + c;
        interleave(rows, columns, b + HEAD + g * COLUMNS * GROUP, (int32_t *)b);
    }
    for (i64 k = 0; k < K; k += ROWS) {
        const a_code *a = error + k * groups * GROUP;
        if (columns == COLUMNS && k + ROWS <= K) {
            tile(a, GROUP, at->error, b, at->groups, ROWS, out + k * pitch, pitch, add);
            continue;
        }
        int32_t part[ROWS * COLUMNS];
        if (K - k <= ROWS / 3) /* what is left of a power of two: no products of nothing */
            tile(a, GROUP, at->error, b, at->groups, ROWS / 3, part, COLUMNS, 0);
        else if (K - k <= 2 * ROWS / 3)
            tile(a, GROUP, at->error, b, at->groups, 2 * ROWS / 3, part, COLUMNS, 0);
        else
            tile(a, GROUP, at->error, b, at->groups, ROWS, part, COLUMNS, 0);
        for (i64 i = 0; i < least(ROWS, K - k); i++)
            for (i64 j = 0; j < columns; j++) {
                int32_t *y = out + (k + i) * pitch + j;
                *y = part[i * COLUMNS + j] + (add ? *y : 0);
            }
    }
}

/* out: int32 (K, R, S, C); at most 2**17 output pixels, padding code 0, no inserted zeros. Returns as
 * convolve.
 */
int weight_gradient(const windows *given, const int8_t *e, i64 K, int32_t *out)
{
    windows own = *given;
    const windows *v = &own;
    const i64 M = v->N * v->P * v->Q, panels = groups_of(v->C, COLUMNS);
    if (v->R * v->S * v->stride_h * v->stride_w == 1 && !v->top && !v->left && v->P == v->H &&
        v->Q == v->W) {
        /* Pixels meet their own: as images of one they are taken in the order of memory. */
        own.N = M;
        own.H = own.W = own.P = own.Q = 1;
    }
    if (M == 0) { /* a batch of no images */
        memset(out, 0, K * v->R * v->S * v->C * sizeof *out);
        return 0;
    }
    const i64 span = most(1, least(SPAN, v->R * v->S * panels / TASKS));
    const i64 spans = groups_of(panels, span), pitch = v->R * v->S * v->C;
    /* Pixels of a panel, all of about the same size, and codes of its errors. */
    const i64 deep = groups_of(groups_of(M, groups_of(M, PIXELS)), GROUP) * GROUP;
    const i64 whole = groups_of(K, ROWS) * ROWS * deep;
    a_code *error = buffer(PARTS * whole * sizeof *error);
    int8_t *zeros = calloc(K, 1);
    int failed = !error || !zeros;
#pragma omp parallel
    {
        b_code *b = buffer((HEAD + deep * COLUMNS) * sizeof *b);
        a_code *line = calloc((K + ROWS) * GROUP, sizeof *line);
        if (!b || !line) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        for (i64 start = 0; start < M && !failed; start += PARTS * deep) {
            const i64 end = least(M, start + PARTS * deep);
#pragma omp for schedule(static)
            for (i64 m = start; m < end; m += GROUP) {
                const i64 part = (m - start) / deep, m0 = start + part * deep;
                const int8_t *rows[GROUP];
                output o = output_at(v, m);
                for (int j = 0; j < GROUP; j++, next_output(v, &o))
                    rows[j] = m + j < end ? e + ((o.n * v->P + o.p) * v->Q + o.q) * K : zeros;
                pack_error(rows, K, groups_of(least(deep, end - m0), GROUP), line,
                           error + part * whole + (m - m0) * ROWS);
            }
#pragma omp for schedule(dynamic)
            for (i64 task = 0; task < v->R * v->S * spans; task++) {
                const i64 tap = task / spans, from = task % spans * span;
                for (i64 m0 = start; m0 < end; m0 += deep) {
                    living at;
                    const i64 pixels = least(deep, end - m0);
                    tap_pixels(v, tap / v->S, tap % v->S, m0, pixels, &at);
                    for (i64 j = from; j < least(panels, from + span); j++)
                        gradient_panel(&at, j * COLUMNS, least(COLUMNS, v->C - j * COLUMNS),
                                       error + (m0 - start) / deep * whole,
                                       groups_of(pixels, GROUP), K, b,
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
