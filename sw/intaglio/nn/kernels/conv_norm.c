/* A convolution and the batch norm behind it, some channels at a time: their accumulators are small
 * enough to be in the second caches still when batch norm reads them, four times.
 */
#include "norms.h"
#include "windows.h"

enum {
    NEAR = 1 << 20,     /* bytes of accumulators that stay near */
    LEAST_COLUMNS = 64, /* channels that are worth a product of their own */
};

/* Arguments of weight_codes(); shift: the guess, then what it is. */
typedef struct {
    const int16_t *master;
    int8_t *codes;
    const i64 *at;
    i64 K, C, taps, living, shift;
} layer_weight;

i64 weight_codes(const int16_t *master, int8_t *out, i64 K, i64 C, i64 taps, const i64 *at,
                 i64 living, i64 guess);

/* Make the codes of m, which w reads; then as batch_norm_forward(), of the accumulators of the
 * convolution with them. n->left is without their shift.
 */
int conv_norm_forward(const windows *v, const weights *w, layer_weight *m, const batch_norm *n)
{
    m->shift = weight_codes(m->master, m->codes, m->K, m->C, m->taps, m->at, m->living, m->shift);
    batch_norm shifted = *n;
    shifted.left += m->shift;
    const i64 fit = NEAR / most(4 * n->M, 1) / LEAST_COLUMNS * LEAST_COLUMNS;
    const i64 columns = fit ? least(fit, n->C) : n->C;
    int32_t *acc = large_buffer(n->M * columns * (i64)sizeof(int32_t));
    int failed = !acc || m->shift < 0;
    for (i64 k0 = 0; k0 < n->C && !failed; k0 += columns) {
        const i64 count = least(columns, n->C - k0);
        const weights part = {w->codes + k0 * w->k, w->r, w->s, w->c, w->k};
        failed = convolve(v, &part, count, acc, v->P * v->Q * count, v->Q * count, count);
        if (!failed)
            failed = batch_norm_channels(&shifted, acc, k0, count);
    }
    free(acc);
    if (!failed)
        batch_norm_keep(n);
    return failed;
}
