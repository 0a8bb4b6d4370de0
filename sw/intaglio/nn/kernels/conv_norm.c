/* A convolution and the batch norm behind it, some channels at a time: their accumulators are small
 * enough to be in the second caches still when batch norm reads them, four times.
 */
#include "norms.h"
#include "windows.h"

enum {
    NEAR = 1 << 20,     /* bytes of accumulators that stay near */
    LEAST_COLUMNS = 64, /* channels that are worth a product of their own */
    MAPPED = 32 << 20,  /* bytes from which on the C library maps a block anew each time */
};

void large_pages(char *block, i64 bytes);

/* As batch_norm_forward(), of the accumulators of a convolution. */
int conv_norm_forward(const windows *v, const weights *w, const batch_norm *n)
{
    const i64 fit = NEAR / most(4 * n->M, 1) / LEAST_COLUMNS * LEAST_COLUMNS;
    const i64 columns = fit ? least(fit, n->C) : n->C;
    const i64 bytes = n->M * columns * (i64)sizeof(int32_t);
    int32_t *acc = buffer(bytes);
    int failed = !acc;
    if (!failed && bytes >= MAPPED)
        large_pages((char *)acc, bytes);
    for (i64 k0 = 0; k0 < n->C && !failed; k0 += columns) {
        const i64 count = least(columns, n->C - k0);
        const weights part = {w->codes + k0 * w->k, w->r, w->s, w->c, w->k};
        failed = convolve(v, &part, count, acc, v->P * v->Q * count, v->Q * count, count);
        if (!failed)
            failed = batch_norm_channels(n, acc, k0, count);
    }
    free(acc);
    if (!failed)
        batch_norm_keep(n);
    return failed;
}
