/* vpmaddubsw and 16-bit products on 16 rows at a time. */
#include "../hqk.h"
#include "ops512.h"

#define NAME(kernel) hqk_##kernel##_avx512
#include "two_bits_pairs.h"
#include "five_trits_prefixes.h"
#include "walk.h"
