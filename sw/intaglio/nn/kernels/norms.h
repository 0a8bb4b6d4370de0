/* Batch norm of some channels of a layer; see normal.c. */
#ifndef INTAGLIO_NORMS_H
#define INTAGLIO_NORMS_H

#include "tile.h"

/* A layer of C channels whose maps have M pixels, with its results; quant.py has the meaning.
 *
 * vectors: mantissa, shift, gamma, beta, running mean, running deviation, signs, and two for work, of C
 * numbers each. With std the deviation is that of "l1-std", and signs are zero.
 */
typedef struct {
    i64 *running_mean, *running_deviation;
    const int16_t *gamma, *beta;
    const int8_t *residual; /* or NULL */
    int16_t *xhat;
    int8_t *out;
    i64 *vectors;
    i64 left;   /* the exponent of the accumulators minus that of the running statistics */
    i64 weight; /* one over what the batch weighs in them */
    i64 std, out_shift, residual_shift, low, M, C;
} batch_norm;

/* Normalise the channels [from, from + count), whose accumulators are acc (M, count). Returns 1 where
 * memory is lacking, 2 where a number is beyond the loops.
 */
int batch_norm_channels(const batch_norm *n, const int32_t *acc, i64 from, i64 count);

/* Bring the running statistics up to date, when all channels are normalised. */
void batch_norm_keep(const batch_norm *n);

#endif
