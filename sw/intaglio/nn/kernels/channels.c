/* What batch norm computes for each channel, between the passes over its maps: quant.py, number for
 * number. Vectors have C int64.
 */
#include "tile.h"

/* floor(a / b + 1/2), b > 0. */
INLINE i64 round_divide(i64 a, i64 b)
{
    const i64 x = 2 * a + b, y = 2 * b, q = x / y;
    return q - (x % y < 0);
}

INLINE i64 magnitude(i64 x) { return x < 0 ? -x : x; }

/* The mean of a channel whose sum over `count` accumulators is `total`, in place. */
void round_means(i64 *total, i64 count, i64 C)
{
    for (i64 c = 0; c < C; c++)
        total[c] = round_divide(total[c], count);
}

/* Masters at -14 to codes at -6. */
INLINE i64 affine(int16_t master)
{
    const i64 v = (master + 128) >> 8;
    return v < -127 ? -127 : v > 127 ? 127 : v;
}

/* out: mantissa, shift, gamma, beta, and the running mean and deviation with this batch, rows that
 * are `pitch` apart; `left` is the exponent of the accumulators minus that of the running statistics,
 * `weight` one over what the batch weighs. Returns 1, and leaves it to quant.py, where a number is
 * out of its range.
 */
i64 batch_norm_prepare(const i64 *mean, const i64 *deviation, const i64 *running_mean,
                       const i64 *running_deviation, const int16_t *gamma, const int16_t *beta,
                       i64 count, i64 left, i64 weight, i64 *out, i64 pitch, i64 C)
{
    if (left < -20 || left > 40 || count >= (i64)1 << 31)
        return 1;
    for (i64 c = 0; c < C; c++) {
        const i64 d = deviation[c], total = mean[c] * count;
        if (d <= 0 || d >= (i64)1 << 45 || most(magnitude(total), d) >> least(61 - left, 61))
            return 1;
        out[pitch + c] = 15 + log2_ceil((d - 1) / count + 1);
        out[c] = round_divide(count << out[pitch + c], d);
        out[2 * pitch + c] = affine(gamma[c]);
        out[3 * pitch + c] = affine(beta[c]);
        const i64 up = most(left, 0), divisor = count << most(-left, 0);
        const i64 m = round_divide(total << up, divisor) - running_mean[c];
        const i64 r = round_divide(d << up, divisor) - running_deviation[c];
        out[4 * pitch + c] = running_mean[c] + round_divide(m, weight);
        out[5 * pitch + c] = running_deviation[c] + round_divide(r, weight);
    }
    return 0;
}

/* out: m0, m1, m2 and the factors of the error; returns their exponent without gamma's. */
i64 batch_norm_error_vectors(const i64 *error_sum, const i64 *product_sum, const i64 *sign_sum,
                             i64 count, const i64 *gamma, const i64 *mantissa, const i64 *shift,
                             i64 *out, i64 C)
{
    i64 top = -64;
    for (i64 c = 0; c < C; c++) {
        const i64 m1 = round_divide(product_sum[c] << 4, count);
        out[c] = round_divide(error_sum[c] << 16, count);
        out[C + c] = m1;
        out[2 * C + c] = round_divide(m1 * sign_sum[c], count);
        top = most(top, log2_ceil(magnitude(gamma[c] * mantissa[c])) - shift[c]);
    }
    for (i64 c = 0; c < C; c++) {
        /* Of the channel that has the top, it is log2 of the product minus 15; else it is more. */
        const i64 product = gamma[c] * mantissa[c], right = shift[c] - (15 - top);
        out[3 * C + c] = right < 0 ? product << -right
                                   : (product + (((i64)1 << right) >> 1)) >> right;
    }
    return top - 15;
}
