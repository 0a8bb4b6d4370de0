/* Random words: SplitMix64 with a counter, as in intaglio.spec.rng. Word i of a stream with
 * key = seed ^ mix64(stream) is finish(key + (i + 1) GAMMA).
 */
#ifndef INTAGLIO_WORDS_H
#define INTAGLIO_WORDS_H

#include "tile.h"

static const u64 GAMMA = 0x9E3779B97F4A7C15u;

INLINE u64 finish(u64 z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

#endif
