/* Products of a convolution on (N, H, W, C) int8 maps, without an im2col matrix in memory.
 *
 * convolve(): out[m, k] = sum over taps and channels; m runs over the output pixels. The weights are
 * packed once as B. A task is a block of pixels and of output channels: the windows of its pixels
 * are gathered as A, at most DEPTH values of k at a time. convolve_requantize(): the same with
 * weights that were packed before; a task ends with the requantisation of its sums, which have not
 * left the second cache.
 *
 * An output is the sum of R * S * C products of at most 2**14: int32 holds 2**17 of them. Callers
 * refuse more. Every element of a result is written by one thread.
 */
#include "requantize.h"
#include "windows.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    DEPTH = 576,                            /* most values of k in a block */
    PITCH = DEPTH + 64 / sizeof(a_code),    /* of the rows of A: other sets of the first cache */
    WHOLE_TAP = 256,                        /* from so many values of k on a tap is a unit */
    MOST_ROWS = 192,                        /* pixels of a task: A stays in the second cache */
    MOST_COLUMNS = 256,                     /* output channels of a task */
    SMALL = 384 << 10,                      /* bytes of B that stay in the second cache */
    FIRST = 24 << 10,                       /* bytes of sums that stay in the first */
    MOST_PACKED = 16 << 20,                 /* bytes of B packed at a time, by convolve() */
};

/* Where results go: int32 or int8, with strides in elements. */
typedef struct {
    int32_t *wide;
    int8_t *codes;
    i64 n, p, q;
} target;

/* How the sum over taps and channels is cut into blocks; a panel of B has a HEAD for each.
 *
 * A unit is a tap, or all taps where a tap alone is too little for a tile; it has `parts` blocks of
 * at most `deep` groups.
 */
typedef struct {
    i64 per_tap, unit, parts, deep, blocks, groups;
    i64 panel; /* elements of a panel of B */
} blocking;

static blocking blocks_of(i64 R, i64 S, i64 C)
{
    blocking k = {.per_tap = groups_of(C, GROUP)};
    k.groups = R * S * k.per_tap;
    k.unit = k.per_tap * GROUP >= WHOLE_TAP ? k.per_tap : k.groups;
    k.deep = groups_of(k.unit, groups_of(k.unit * GROUP, DEPTH));
    k.parts = groups_of(k.unit, k.deep);
    k.blocks = k.groups / k.unit * k.parts;
    k.panel = k.blocks * HEAD + k.groups * COLUMNS * GROUP;
    return k;
}

INLINE i64 block_start(const blocking *k, i64 b)
{
    return b / k->parts * k->unit + b % k->parts * k->deep;
}

INLINE i64 block_end(const blocking *k, i64 b)
{
    return least(block_start(k, b) + k->deep, (b / k->parts + 1) * k->unit);
}

/* Pack columns [k0, k0 + columns) and groups [from, to) of the weights as a block of a panel. */
static void pack_block(const weights *w, i64 C, i64 S, i64 k0, i64 columns, i64 from, i64 to,
                       b_code *out)
{
    int32_t *head = (int32_t *)out;
    const i64 per_tap = groups_of(C, GROUP);
    static const int8_t zeros[COLUMNS];
    memset(out, 0, HEAD * sizeof *out);
    out += HEAD;
    for (i64 g = from; g < to;) {
        const i64 tap = g / per_tap, c = g % per_tap * GROUP;
        const int8_t *at = w->codes + tap / S * w->r + tap % S * w->s + c * w->c + k0 * w->k;
        /* Groups of this tap, and its codes. */
        const i64 run = least(to - g, per_tap - g % per_tap), count = least(run * GROUP, C - c);
        if (w->k == 1) {
            for (i64 i = 0; i < run; i++, out += COLUMNS * GROUP) {
                const int8_t *rows[GROUP];
                for (int j = 0; j < GROUP; j++)
                    rows[j] = i * GROUP + j < count ? at + (i * GROUP + j) * w->c : zeros;
                interleave(rows, columns, out, head);
            }
        } else {
            i64 done = 0; /* codes of each column */
            if (columns < COLUMNS || count < run * GROUP)
                memset(out, 0, run * COLUMNS * GROUP * sizeof *out);
#ifdef INTAGLIO_WIDE
            for (; w->c == 1 && columns == COLUMNS && done + LANES * GROUP <= count;
                 done += LANES * GROUP)
                pack_groups(at + done, w->k, out + done * COLUMNS, head);
#endif
            for (i64 i = 0; i < columns; i++) {
                const int8_t *row = at + i * w->k;
                int32_t sum = 0;
                if (w->c == 1)
                    sum = pack_column(row + done, count - done, out + done * COLUMNS + i * GROUP);
                else
                    for (i64 j = 0; j < count; j++) {
                        const int8_t code = row[j * w->c];
                        out[j / GROUP * COLUMNS * GROUP + i * GROUP + j % GROUP] = code;
                        sum += code;
                    }
                if (HEAD)
                    head[i] -= OFFSET * sum;
            }
            out += run * COLUMNS * GROUP;
        }
        g += run;
    }
}

/* Elements of K packed columns, see pack(); in bytes. */
i64 packed_bytes(i64 R, i64 S, i64 C, i64 K)
{
    return groups_of(K, COLUMNS) * blocks_of(R, S, C).panel * (i64)sizeof(b_code);
}

/* Pack K columns as B: panel after panel. */
void pack(const weights *w, i64 R, i64 S, i64 C, i64 K, b_code *out)
{
    const blocking k = blocks_of(R, S, C);
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 j = 0; j < groups_of(K, COLUMNS); j++)
        for (i64 b = 0; b < k.blocks; b++) {
            const i64 from = block_start(&k, b);
            pack_block(w, C, S, j * COLUMNS, least(COLUMNS, K - j * COLUMNS), from,
                       block_end(&k, b), out + j * k.panel + b * HEAD + from * COLUMNS * GROUP);
        }
}

/* The window of an output pixel: its image, and the row and column that the first tap meets. */
typedef struct {
    const int8_t *image;
    i64 h, w;
} origin;

INLINE const int8_t *meets(const windows *v, const origin *at, i64 r, i64 s)
{
    const i64 h = position(at->h + r * v->dil_h, v->spread_h, v->H);
    const i64 w = position(at->w + s * v->dil_w, v->spread_w, v->W);
    return h < 0 || w < 0 ? NULL : at->image + (h * v->W + w) * v->C;
}

/* Groups [from, to) of a window, in order r, s, c; taps fill whole groups. */
static void gather_window(const windows *v, const origin *at, i64 from, i64 to, a_code *out)
{
    const i64 per_tap = groups_of(v->C, GROUP), line = v->S * per_tap;
    i64 tap = from / per_tap, first = from % per_tap;
    i64 r = tap / v->S, s = tap % v->S;
    /* The taps of a row lie side by side, as they are wanted. */
    const int together = v->dil_w == 1 && v->spread_w == 1 && per_tap * GROUP == v->C &&
                         at->w >= 0 && at->w + v->S <= v->W;
    for (i64 g = from; g < to;) {
        if (together && s == 0 && first == 0 && to - g >= line) {
            const int8_t *x = meets(v, at, r, 0);
            if (x) {
                widen(x, out, line * GROUP);
                out += line * GROUP;
                g += line;
                r++;
                continue;
            }
        }
        const i64 last = least(per_tap, first + to - g);
        const i64 c = first * GROUP, count = least(v->C, last * GROUP) - c;
        const int8_t *x = meets(v, at, r, s);
        widen((x ? x : v->outside) + c, out, count);
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

/* What a thread works on: rows of A, sums, and where they go. */
typedef struct {
    a_code *a;
    int32_t *sums, *spare; /* spare: for the rows of a tile beyond the last pixel */
    origin *at;            /* of each pixel */
    i64 *place;            /* of its result */
    int32_t **line;        /* its sums */
    int32_t **alive;       /* those of the rows of A */
} scratch;

/* How the work is cut into tasks: rows x columns of the result. */
typedef struct {
    i64 rows, columns;
} cut;

static cut tasks_of(const blocking *k, i64 M, i64 K, i64 threads)
{
    const i64 panels = groups_of(K, COLUMNS), tiles = groups_of(M, ROWS);
    const i64 high = MOST_ROWS / ROWS;
    cut t = {0};
    if (panels * k->panel * (i64)sizeof(b_code) <= SMALL) {
        /* All of B stays in the second cache: one task for some pixels and every column, many
         * for each thread, and sums that stay in the first cache. */
        i64 rows = least(groups_of(tiles, 8 * threads), high);
        rows = most(1, least(rows, FIRST / (panels * COLUMNS * ROWS * 4)));
        t.rows = rows * ROWS;
        t.columns = panels * COLUMNS;
        return t;
    }
    /* B comes from further away: each part of it is used for as many pixels as possible. */
    const i64 blocks = groups_of(tiles, high);
    const i64 wanted = groups_of(2 * threads, blocks);
    t.rows = groups_of(tiles, blocks) * ROWS;
    t.columns = least(groups_of(panels, least(wanted, panels)), MOST_COLUMNS / COLUMNS) * COLUMNS;
    return t;
}

/* One task: outputs [m0, m1) and columns [k0, k0 + columns), whose panels start at `packed`. */
static void run_task(const windows *v, const blocking *k, const b_code *packed, i64 m0, i64 m1,
                     i64 k0, i64 columns, const requantizer *q, const target *out, scratch *z)
{
    const i64 rows = m1 - m0, panels = groups_of(columns, COLUMNS), pitch = panels * COLUMNS;
    const int direct = !q && columns % COLUMNS == 0;
    /* Padding of code 0 adds nothing: pixels where a tap meets only that are left out. */
    const int sparse = k->unit == k->per_tap && k->blocks > k->parts && v->outside[0] == 0;
    i64 x = m0 % v->Q, y = m0 / v->Q % v->P, n = m0 / v->Q / v->P;
    for (i64 i = 0; i < rows; i++) {
        z->at[i] = (origin){v->x + n * v->H * v->W * v->C, y * v->stride_h - v->top,
                            x * v->stride_w - v->left};
        z->place[i] = n * out->n + y * out->p + x * out->q + k0;
        z->line[i] = direct ? out->wide + z->place[i] : z->sums + i * pitch;
        if (++x == v->Q) {
            x = 0;
            if (++y == v->P) {
                y = 0;
                n++;
            }
        }
    }
    if (sparse)
        for (i64 i = 0; i < rows; i++)
            memset(z->line[i], 0, pitch * sizeof(int32_t));
    for (i64 b = 0; b < k->blocks; b++) {
        const i64 from = block_start(k, b), to = block_end(k, b);
        const b_code *panel = packed + b * HEAD + from * COLUMNS * GROUP;
        i64 alive = 0;
        for (i64 i = 0; i < rows; i++) {
            const i64 tap = from / k->per_tap;
            if (sparse && !meets(v, z->at + i, tap / v->S, tap % v->S))
                continue;
            gather_window(v, z->at + i, from, to, z->a + alive * PITCH);
            z->alive[alive++] = z->line[i];
        }
        for (i64 i = alive; i < groups_of(alive, ROWS) * ROWS; i++)
            z->alive[i] = z->spare;
        for (i64 j = 0; j < panels; j++, panel += k->panel)
            for (i64 i = 0; i < alive; i += ROWS)
                tile_rows(z->a + i * PITCH, PITCH, panel, to - from, z->alive + i, j * COLUMNS,
                          sparse || b > 0);
    }
    if (q)
        for (i64 i = 0; i < rows; i++)
            requantize_row(q, z->line[i], k0, columns,
                           q->residual ? q->residual + z->place[i] : NULL,
                           out->codes + z->place[i]);
    else if (!direct)
        for (i64 i = 0; i < rows; i++)
            memcpy(out->wide + z->place[i], z->line[i], columns * sizeof(int32_t));
}

/* Scratch of some threads. One is kept for the next call: fresh pages cost as much as a layer. */
typedef struct {
    i64 threads, columns, sums; /* the columns and the elements of sums that there is room for */
    scratch each[];
} room;

static _Atomic(room *) kept;

static void release(room *r)
{
    if (!r)
        return;
    for (i64 i = 0; i < r->threads; i++) {
        scratch *z = r->each + i;
        free(z->a);
        free(z->sums);
        free(z->spare);
        free(z->at);
        free(z->place);
        free(z->line);
        free(z->alive);
    }
    free(r);
}

/* Return room for tasks of `sums` results in `columns`, or NULL; the caller has it alone. */
static room *reserve(i64 threads, i64 columns, i64 sums)
{
    room *r = atomic_exchange(&kept, NULL);
    if (r && r->threads >= threads && r->columns >= columns && r->sums >= sums)
        return r;
    release(r);
    r = calloc(1, sizeof *r + threads * sizeof(scratch));
    if (!r)
        return NULL;
    *r = (room){.threads = threads, .columns = columns, .sums = sums};
    for (i64 i = 0; i < threads; i++) {
        scratch *z = r->each + i;
        *z = (scratch){
            .a = buffer(MOST_ROWS * PITCH * sizeof(a_code)),
            .sums = buffer(sums * sizeof(int32_t)),
            .spare = buffer(columns * sizeof(int32_t)),
            .at = malloc(MOST_ROWS * sizeof(origin)),
            .place = malloc(MOST_ROWS * sizeof(i64)),
            .line = malloc(MOST_ROWS * sizeof(int32_t *)),
            .alive = malloc(MOST_ROWS * sizeof(int32_t *)),
        };
        if (!z->a || !z->sums || !z->spare || !z->at || !z->place || !z->line || !z->alive) {
            release(r);
            return NULL;
        }
    }
    return r;
}

/* Convolve with packed weights; returns 0, or 1 where memory is lacking. */
static int run(const windows *v, const b_code *packed, i64 K, const requantizer *q,
               const target *out)
{
    const i64 M = v->N * v->P * v->Q;
    if (M == 0) /* a batch of no images: nothing to cut */
        return 0;
    const blocking k = blocks_of(v->R, v->S, v->C);
    const cut t = tasks_of(&k, M, K, omp_get_max_threads());
    const i64 down = groups_of(M, t.rows), across = groups_of(K, t.columns);
    const int threads = (int)least(omp_get_max_threads(), down * across);
    /* Of the usual size at least, so that most layers find it large enough. */
    room *z = reserve(most(threads, omp_get_max_threads()), most(t.columns, MOST_COLUMNS),
                      most(t.rows * t.columns, MOST_ROWS * MOST_COLUMNS));
    if (!z)
        return 1;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (i64 i = 0; i < down * across; i++) {
        const i64 m0 = i % down * t.rows, k0 = i / down * t.columns;
        run_task(v, &k, packed + k0 / COLUMNS * k.panel, m0, least(M, m0 + t.rows), k0,
                 least(t.columns, K - k0), q, out, z->each + omp_get_thread_num());
    }
    release(atomic_exchange(&kept, z));
    return 0;
}

int convolve(const windows *v, const weights *w, i64 K, int32_t *out, i64 out_n, i64 out_p,
             i64 out_q)
{
    const i64 panel = packed_bytes(v->R, v->S, v->C, COLUMNS);
    const i64 chunk = most(1, least(MOST_PACKED / panel, groups_of(K, COLUMNS))) * COLUMNS;
    b_code *packed = buffer(chunk / COLUMNS * panel);
    int failed = !packed;
    for (i64 k0 = 0; k0 < K && !failed; k0 += chunk) {
        const i64 columns = least(chunk, K - k0);
        const weights part = {w->codes + k0 * w->k, w->r, w->s, w->c, w->k};
        const target to = {.wide = out + k0, .n = out_n, .p = out_p, .q = out_q};
        pack(&part, v->R, v->S, v->C, columns, packed);
        failed = run(v, packed, columns, NULL, &to);
    }
    free(packed);
    return failed;
}

int convolve_all(const product *p, i64 count)
{
    int failed = 0;
    for (i64 i = 0; i < count && !failed; i++)
        failed = convolve(&p[i].v, &p[i].w, p[i].K, p[i].out, p[i].out_n, p[i].out_p, p[i].out_q);
    return failed;
}

/* The map x to out, int8 (N, P, Q, K), requantised; v and q lack x and the residual, so that calls
 * share them. The weights are packed. Returns as convolve().
 */
int convolve_requantize(const windows *v, const int8_t *x, const b_code *packed, i64 K,
                        const requantizer *q, const int8_t *residual, int8_t *out)
{
    const target to = {.codes = out, .n = v->P * v->Q * K, .p = v->Q * K, .q = K};
    windows w = *v;
    requantizer z = *q;
    w.x = x;
    z.residual = residual;
    return run(&w, packed, K, &z, &to);
}
