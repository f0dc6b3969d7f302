/* Eight rows at a time, as in ternary_pack/trits256.h: a register holds 16 columns of rows r and r + 4, and four of them,
 * transposed as 4 x 4 words within each half, are the digits 0 to 3 of 32 bytes of a tile; digit 4 lies behind. Digits join
 * in bytes: the number of a group is 242 at most. */
#include "../hqk.h"
#include "../ternary/layout.h"

#include <immintrin.h>
#include <string.h>

#define GROUP_ROWS 8
#define DIGITS 5

/* The signs of 16 columns of two rows. */
static inline __m256i two_rows(const int8_t *low, const int8_t *high) {
    __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                        _mm_loadu_si128((const __m128i *)high), 1);
    return _mm256_sign_epi8(_mm256_set1_epi8(1), v);
}

/* ceil(256 (v + 121) / 243) in every byte. (256 v + 242) 34522 >> 23 is the division by 243, rounded up: tried for each v. */
static inline __m256i to_fractions(__m256i v) {
    __m256i rounding = _mm256_set1_epi16(242), factor = _mm256_set1_epi16((short)34522);
    v = _mm256_add_epi8(v, _mm256_set1_epi8(121));
    __m256i even = _mm256_mulhi_epu16(_mm256_or_si256(_mm256_slli_epi16(v, 8), rounding), factor);
    __m256i upper = _mm256_set1_epi16((short)0xFF00);
    __m256i odd = _mm256_mulhi_epu16(_mm256_or_si256(_mm256_and_si256(v, upper), rounding), factor);
    return _mm256_or_si256(_mm256_srli_epi16(even, 7), _mm256_and_si256(_mm256_slli_epi16(odd, 1), upper));
}

static inline __m256i times3(__m256i v) { return _mm256_add_epi8(_mm256_add_epi8(v, v), v); }

/* Eight rows, `stride` apart, of 20 columns to 32 bytes of a tile. */
static inline void pack_rows(const int8_t *trits, size_t stride, uint8_t *out) {
    __m256i row[4], end[4];
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) {
        const int8_t *low = trits + i * stride, *high = trits + (i + 4) * stride;
        row[i] = two_rows(low, high), end[i] = two_rows(low + 4, high + 4);
    }
    __m256i low01 = _mm256_unpacklo_epi32(row[0], row[1]), low23 = _mm256_unpacklo_epi32(row[2], row[3]);
    __m256i high01 = _mm256_unpackhi_epi32(row[0], row[1]), high23 = _mm256_unpackhi_epi32(row[2], row[3]);
    __m256i end01 = _mm256_unpackhi_epi32(end[0], end[1]), end23 = _mm256_unpackhi_epi32(end[2], end[3]);
    __m256i v = _mm256_unpacklo_epi64(low01, low23);
    v = _mm256_add_epi8(times3(v), _mm256_unpackhi_epi64(low01, low23));
    v = _mm256_add_epi8(times3(v), _mm256_unpacklo_epi64(high01, high23));
    v = _mm256_add_epi8(times3(v), _mm256_unpackhi_epi64(high01, high23));
    v = _mm256_add_epi8(times3(v), _mm256_unpackhi_epi64(end01, end23));
    _mm256_storeu_si256((__m256i *)out, to_fractions(v));
}

void hqk_pack5_avx2(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    size_t steps = (cols + HQK_FIVE_TRITS_COLS - 1) / HQK_FIVE_TRITS_COLS, whole = cols / HQK_FIVE_TRITS_COLS;
    for (size_t r = 0; r < (rows + HQK_BLOCK_ROWS - 1) / HQK_BLOCK_ROWS * HQK_BLOCK_ROWS; r += GROUP_ROWS) {
        size_t count = r < rows ? hqk_min(rows - r, GROUP_ROWS) : 0;
        const int8_t *from = trits + hqk_min(r, rows) * cols;
        uint8_t *out = packed + r / HQK_BLOCK_ROWS * steps * HQK_STEP_BYTES + r % HQK_BLOCK_ROWS * 4;
        for (size_t s = 0; s < steps; s++, from += HQK_FIVE_TRITS_COLS, out += HQK_STEP_BYTES) {
            if (count == GROUP_ROWS && s < whole) {
                pack_rows(from, cols, out);
                continue;
            }
            int8_t part[GROUP_ROWS * HQK_FIVE_TRITS_COLS] = {0};
            size_t width = hqk_min(cols - s * HQK_FIVE_TRITS_COLS, HQK_FIVE_TRITS_COLS);
            for (size_t i = 0; i < count; i++) memcpy(part + i * HQK_FIVE_TRITS_COLS, from + i * cols, width);
            pack_rows(part, HQK_FIVE_TRITS_COLS, out);
        }
    }
}

/* The first digit of every fraction, -1 to 1: its integer part is 1 from 86 / 256 on and 2 from 171 / 256 on. */
static inline __m256i first_digit(__m256i fraction) {
    __m256i one = _mm256_set1_epi8(86), two = _mm256_set1_epi8((char)171);
    __m256i above1 = _mm256_cmpeq_epi8(_mm256_max_epu8(fraction, one), fraction);
    __m256i above2 = _mm256_cmpeq_epi8(_mm256_max_epu8(fraction, two), fraction);
    return _mm256_sub_epi8(_mm256_set1_epi8(-1), _mm256_add_epi8(above1, above2));
}

/* 32 bytes of a tile to eight rows, `stride` apart, of 20 columns. */
static inline void unpack_rows(const uint8_t *in, size_t stride, int8_t *trits) {
    __m256i fraction = _mm256_loadu_si256((const __m256i *)in), digit[DIGITS], row[4];
    HQK_UNROLL(5) for (int f = 0; f < DIGITS; f++) digit[f] = first_digit(fraction), fraction = times3(fraction);
    __m256i low01 = _mm256_unpacklo_epi32(digit[0], digit[1]), low23 = _mm256_unpacklo_epi32(digit[2], digit[3]);
    __m256i high01 = _mm256_unpackhi_epi32(digit[0], digit[1]), high23 = _mm256_unpackhi_epi32(digit[2], digit[3]);
    row[0] = _mm256_unpacklo_epi64(low01, low23), row[1] = _mm256_unpackhi_epi64(low01, low23);
    row[2] = _mm256_unpacklo_epi64(high01, high23), row[3] = _mm256_unpackhi_epi64(high01, high23);
    int32_t last[GROUP_ROWS];
    _mm256_storeu_si256((__m256i *)last, digit[4]);
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) {
        int8_t *low = trits + i * stride, *high = trits + (i + 4) * stride;
        _mm_storeu_si128((__m128i *)low, _mm256_castsi256_si128(row[i]));
        _mm_storeu_si128((__m128i *)high, _mm256_extracti128_si256(row[i], 1));
        memcpy(low + 16, last + i, 4), memcpy(high + 16, last + i + 4, 4);
    }
}

void hqk_unpack5_avx2(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits) {
    size_t steps = (cols + HQK_FIVE_TRITS_COLS - 1) / HQK_FIVE_TRITS_COLS, whole = cols / HQK_FIVE_TRITS_COLS;
    for (size_t r = 0; r < rows; r += GROUP_ROWS) {
        size_t count = hqk_min(rows - r, GROUP_ROWS);
        int8_t *to = trits + r * cols;
        const uint8_t *in = packed + r / HQK_BLOCK_ROWS * steps * HQK_STEP_BYTES + r % HQK_BLOCK_ROWS * 4;
        for (size_t s = 0; s < steps; s++, to += HQK_FIVE_TRITS_COLS, in += HQK_STEP_BYTES) {
            if (count == GROUP_ROWS && s < whole) {
                unpack_rows(in, cols, to);
                continue;
            }
            int8_t part[GROUP_ROWS * HQK_FIVE_TRITS_COLS];
            unpack_rows(in, HQK_FIVE_TRITS_COLS, part);
            size_t width = hqk_min(cols - s * HQK_FIVE_TRITS_COLS, HQK_FIVE_TRITS_COLS);
            for (size_t i = 0; i < count; i++) memcpy(to + i * cols, part + i * HQK_FIVE_TRITS_COLS, width);
        }
    }
}
