/* The weight gradient of a convolution with its quantiser: the wide sums do not leave the call. */
#include "windows.h"

int weight_gradient(const windows *v, const int8_t *e, i64 K, int32_t *out);
i64 quantize_gradient_int32_t_int8_t(const int32_t *x, int8_t *out, i64 shift, i64 limit, u64 key,
                                     u64 first, i64 K, i64 C, i64 taps, i64 living, const i64 *at);

/* As weight_gradient(), then quantize_gradient_int32_t_int8_t(), of K rows of a kernel (C, taps), of
 * whose taps `living` have a gradient. The shift is raised to the one that the largest magnitude
 * needs, and where these are the `whole` rows of a kernel, lowered to it. Returns that magnitude, -1
 * where memory is lacking.
 */
i64 weight_gradient_codes(const windows *v, const int8_t *e, i64 K, int8_t *out, i64 whole,
                          i64 shift, i64 limit, u64 key, u64 first, i64 C, i64 taps, i64 living,
                          const i64 *at)
{
    int32_t *wide = large_buffer(K * C * living * (i64)sizeof(int32_t));
    i64 largest = -1;
    if (wide && !weight_gradient(v, e, K, wide))
        for (;;) {
            largest = quantize_gradient_int32_t_int8_t(wide, out, shift, limit, key, first, K, C,
                                                       taps, living, at);
            const i64 right = most(log2_ceil(largest) - 7, 0);
            if (largest < 0 || (whole ? right == shift : right <= shift))
                break;
            shift = right;
        }
    free(wide);
    return largest;
}
