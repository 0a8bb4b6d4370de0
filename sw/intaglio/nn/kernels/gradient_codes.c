/* Weight gradients of convolutions with their quantiser: the wide sums do not leave the call. */
#include "windows.h"

int weight_gradient(const windows *v, const int8_t *e, i64 K, int32_t *out);
i64 quantize_gradient_int32_t_int8_t(const int32_t *x, int8_t *out, i64 shift, i64 limit, u64 key,
                                     u64 first, i64 K, i64 C, i64 taps, i64 living, const i64 *at);

/* A weight gradient of K rows of a kernel (C, taps), of whose taps `living` have one; the arguments are
 * those of weight_gradient() and quantize_gradient_int32_t_int8_t(). The shift is raised to the one
 * that the largest magnitude needs, and where these are the `whole` rows of a kernel, lowered to it.
 */
typedef struct {
    windows v;
    const int8_t *e;
    int8_t *out;
    const i64 *at;
    i64 K, C, taps, living, whole, shift, limit;
    u64 key, first;
    i64 largest; /* the result: that magnitude */
} gradient;

static int quantized(gradient *g)
{
    int32_t *wide = large_buffer(g->K * g->C * g->living * (i64)sizeof(int32_t));
    int failed = !wide || weight_gradient(&g->v, g->e, g->K, wide);
    for (i64 shift = g->shift; !failed;) {
        g->largest = quantize_gradient_int32_t_int8_t(wide, g->out, shift, g->limit, g->key, g->first,
                                                      g->K, g->C, g->taps, g->living, g->at);
        const i64 right = code_shift(g->largest);
        failed = g->largest < 0;
        if (g->whole ? right == shift : right <= shift)
            break;
        shift = right;
    }
    free(wide);
    return failed;
}

/* Returns 1 where memory is lacking. */
int weight_gradients(gradient *g, i64 count)
{
    int failed = 0;
    for (i64 i = 0; i < count && !failed; i++)
        failed = quantized(g + i);
    return failed;
}
