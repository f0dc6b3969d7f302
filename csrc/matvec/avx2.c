/* vpmaddubsw and 16-bit products on 8 rows at a time. */
#include "../hqk.h"
#include "ops256.h"

#define NAME(kernel) hqk_##kernel##_avx2
#include "two_bits_pairs.h"
#include "five_trits_prefixes.h"
#include "walk.h"
