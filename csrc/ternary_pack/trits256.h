/* Packing and unpacking trits, eight rows at a time in 256-bit registers: a register holds 16 columns of rows r and r + 4, so
 * that four of them, transposed as 4 x 4 words within each half, hold a field of all eight rows each. */
#include <immintrin.h>

/* Codes of 16 columns of two rows, field f shifted to its place. */
HQK_ALWAYS_INLINE __m256i shifted_codes(const int8_t *low, const int8_t *high) {
    __m256i v = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                        _mm_loadu_si128((const __m128i *)high), 1);
    __m256i one = _mm256_set1_epi8(1);
    v = _mm256_add_epi8(_mm256_sign_epi8(one, v), one);
    return _mm256_sllv_epi32(v, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
}

/* Eight rows, `stride` apart, of 16 columns to 32 bytes of a tile. The fields are joined as the words meet: each OR halves
 * what is left to transpose. */
HQK_ALWAYS_INLINE void pack_eight_rows(const int8_t *trits, size_t stride, uint8_t *out) {
    __m256i row[4], pair[2];
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) row[i] = shifted_codes(trits + i * stride, trits + (i + 4) * stride);
    HQK_UNROLL(2) for (size_t i = 0; i < 2; i++)
        pair[i] = _mm256_or_si256(_mm256_unpacklo_epi32(row[2 * i], row[2 * i + 1]),
                                  _mm256_unpackhi_epi32(row[2 * i], row[2 * i + 1]));
    __m256i bytes = _mm256_or_si256(_mm256_unpacklo_epi64(pair[0], pair[1]), _mm256_unpackhi_epi64(pair[0], pair[1]));
    _mm256_storeu_si256((__m256i *)out, bytes);
}

void HQK_NAME(hqk_ternary_pack)(const int8_t *trits, size_t rows, size_t cols, uint8_t *packed) {
    size_t whole = cols / HQK_STEP_COLS * HQK_STEP_COLS, r = 0;
    fill_padding(rows, cols, packed);
    for (; r + 8 <= rows; r += 8) {
        const int8_t *from = trits + r * cols;
        uint8_t *out = row_start(packed, r, cols);
        for (size_t c = 0; c < whole; c += HQK_STEP_COLS, out += HQK_STEP_BYTES) pack_eight_rows(from + c, cols, out);
        if (whole < cols) {
            int8_t part[8 * HQK_STEP_COLS] = {0};
            for (size_t i = 0; i < 8; i++) memcpy(part + i * HQK_STEP_COLS, from + i * cols + whole, cols - whole);
            pack_eight_rows(part, HQK_STEP_COLS, out);
        }
    }
    pack_trits(trits + r * cols, r, rows, cols, packed);
}

/* 32 bytes of a tile to eight rows, `stride` apart, of 16 columns. */
HQK_ALWAYS_INLINE void unpack_eight_rows(const uint8_t *in, size_t stride, int8_t *trits) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)in), mask = _mm256_set1_epi8(3), one = _mm256_set1_epi8(1);
    __m256i field[4], row[4];
    HQK_UNROLL(4) for (int f = 0; f < 4; f++)
        field[f] = _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi32(bytes, 2 * f), mask), one);
    __m256i low01 = _mm256_unpacklo_epi32(field[0], field[1]), low23 = _mm256_unpacklo_epi32(field[2], field[3]);
    __m256i high01 = _mm256_unpackhi_epi32(field[0], field[1]), high23 = _mm256_unpackhi_epi32(field[2], field[3]);
    row[0] = _mm256_unpacklo_epi64(low01, low23), row[1] = _mm256_unpackhi_epi64(low01, low23);
    row[2] = _mm256_unpacklo_epi64(high01, high23), row[3] = _mm256_unpackhi_epi64(high01, high23);
    HQK_UNROLL(4) for (size_t i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i *)(trits + i * stride), _mm256_castsi256_si128(row[i]));
        _mm_storeu_si128((__m128i *)(trits + (i + 4) * stride), _mm256_extracti128_si256(row[i], 1));
    }
}

void HQK_NAME(hqk_ternary_unpack)(const uint8_t *packed, size_t rows, size_t cols, int8_t *trits) {
    size_t whole = cols / HQK_STEP_COLS * HQK_STEP_COLS, r = 0;
    for (; r + 8 <= rows; r += 8) {
        const uint8_t *in = packed + hqk_byte_of(r, 0, cols);
        int8_t *to = trits + r * cols;
        for (size_t c = 0; c < whole; c += HQK_STEP_COLS, in += HQK_STEP_BYTES) unpack_eight_rows(in, cols, to + c);
        if (whole < cols) {
            int8_t part[8 * HQK_STEP_COLS];
            unpack_eight_rows(in, HQK_STEP_COLS, part);
            for (size_t i = 0; i < 8; i++) memcpy(to + i * cols + whole, part + i * HQK_STEP_COLS, cols - whole);
        }
    }
    unpack_trits(packed, r, rows, cols, trits + r * cols);
}
