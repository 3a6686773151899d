// Multiply-accumulates a second of one core, from loops that never leave the registers.
// Eight independent accumulators (four tiles) hide the latency; the empty asm keeps the compiler from merging the steps.
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AMX_TILE__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define KEEP(x) __asm__ volatile("" : "+x"(x))
#define LOOP(T, INIT, STEP)                                   \
    T a0 = INIT, a1 = a0, a2 = a0, a3 = a0;                   \
    T a4 = a0, a5 = a0, a6 = a0, a7 = a0;                     \
    for (int64_t i = 0; i < steps; i++) {                     \
        STEP(a0); STEP(a1); STEP(a2); STEP(a3);               \
        STEP(a4); STEP(a5); STEP(a6); STEP(a7);               \
    }                                                         \
    KEEP(a0); KEEP(a1); KEEP(a2); KEEP(a3);                   \
    KEEP(a4); KEEP(a5); KEEP(a6); KEEP(a7)

// Tiles of 16 rows of 64 bytes: four accumulators, as many as their latency takes, of one product of A and B.
#if defined(__AMX_TILE__) && defined(__linux__)
#define TILES(STEP)                                                                  \
    struct { uint8_t palette, zero[15]; uint16_t bytes[16]; uint8_t rows[16]; }      \
        shape = {.palette = 1};                                                      \
    for (int i = 0; i < 6; i++) { shape.bytes[i] = 64; shape.rows[i] = 16; }         \
    /* gcc 12 thinks that loading reads 8 bytes, and leaves the others unwritten */  \
    __asm__ volatile("" : : "r"(&shape) : "memory");                                 \
    _tile_loadconfig(&shape);                                                        \
    _tile_zero(0); _tile_zero(1); _tile_zero(2);                                     \
    _tile_zero(3); _tile_zero(4); _tile_zero(5);                                     \
    for (int64_t i = 0; i < steps; i++) {                                            \
        STEP(0, 4, 5); STEP(1, 4, 5); STEP(2, 4, 5); STEP(3, 4, 5);                  \
        STEP(0, 4, 5); STEP(1, 4, 5); STEP(2, 4, 5); STEP(3, 4, 5);                  \
    }                                                                                \
    _tile_release()

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };  // ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA in Linux

static int may_use_tiles(void) {  // Linux gives the registers of tiles to processes that ask
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

// Each function runs 8 * steps operations, on vectors or tiles, and returns the MACs of one of them, or 0 where it has none.

int64_t run_fp32(int64_t steps) {
#if defined(__AVX512F__)
    __m512 x = _mm512_set1_ps(1e-9f);
#define FMA512(a) a = _mm512_fmadd_ps(x, x, a); KEEP(a)
    LOOP(__m512, _mm512_setzero_ps(), FMA512);
    return 16;
#elif defined(__AVX2__) && defined(__FMA__)
    __m256 x = _mm256_set1_ps(1e-9f);
#define FMA256(a) a = _mm256_fmadd_ps(x, x, a); KEEP(a)
    LOOP(__m256, _mm256_setzero_ps(), FMA256);
    return 8;
#else
    (void)steps;
    return 0;
#endif
}

int64_t run_bf16(int64_t steps) {
#if defined(__AMX_BF16__) && defined(__linux__)
    if (may_use_tiles()) {
        TILES(_tile_dpbf16ps);
        return 16 * 16 * 32;
    }
#endif
#if defined(__AVX512BF16__)
    __m512bh x = (__m512bh)_mm512_setzero_si512();
#define DPBF16(a) a = _mm512_dpbf16_ps(a, x, x); KEEP(a)
    LOOP(__m512, _mm512_setzero_ps(), DPBF16);
    return 32;
#else
    (void)steps;
    return 0;
#endif
}

int64_t run_int8(int64_t steps) {
#if defined(__AMX_INT8__) && defined(__linux__)
    if (may_use_tiles()) {
        TILES(_tile_dpbusd);
        return 16 * 16 * 64;
    }
#endif
#if defined(__AVX512VNNI__)
    __m512i x = _mm512_set1_epi8(1);
#define DPBUSD512(a) a = _mm512_dpbusd_epi32(a, x, x); KEEP(a)
    LOOP(__m512i, _mm512_setzero_si512(), DPBUSD512);
    return 64;
#elif defined(__AVXVNNI__)
    __m256i x = _mm256_set1_epi8(1);
#define DPBUSD256(a) a = _mm256_dpbusd_avx_epi32(a, x, x); KEEP(a)
    LOOP(__m256i, _mm256_setzero_si256(), DPBUSD256);
    return 32;
#elif defined(__AVX2__)
    __m256i x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    // KEEP(p) in between: the products of two accumulators must not be computed once for both.
#define MADD(a) do { __m256i p = _mm256_maddubs_epi16(x, x); KEEP(p); \
        a = _mm256_add_epi32(a, _mm256_madd_epi16(p, ones)); KEEP(a); KEEP(x); } while (0)
    LOOP(__m256i, _mm256_setzero_si256(), MADD);
    return 32;
#else
    (void)steps;
    return 0;
#endif
}
