// The most multiply-accumulates of one core: loops that never leave the registers.
//
// A unit starts an operation each cycle and gives its result some cycles later, so the units are busy only where at
// least latency x units operations do not wait for each other. A core has two units for vectors with latencies of 4 to
// 6 cycles: 8 to 12 accumulators, and some more, because no scheduler is perfect. AVX-512 has registers for 24. AVX2
// has 16 registers, and 12 accumulators leave room for the factors. A tile is multiplied in 16 cycles and its sums can
// be read after 52: 4 accumulators; 6 fit beside the factors. benchmarks/speed/peak.py compares the counts.
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__) && (defined(__AMX_INT8__) || defined(__AMXINT8__))  // the second is clang's name before clang 15
#define HAS_INT8_TILES
#endif
#if defined(__linux__) && (defined(__AMX_BF16__) || defined(__AMXBF16__))
#define HAS_BF16_TILES
#endif
#if defined(HAS_INT8_TILES) || defined(HAS_BF16_TILES)
#define HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifndef ACCUMULATORS_512
#define ACCUMULATORS_512 24
#endif
#ifndef ACCUMULATORS_256
#define ACCUMULATORS_256 12
#endif
#ifndef PRODUCTS
#define PRODUCTS 12
#endif
#ifndef ACCUMULATORS_TILE
#define ACCUMULATORS_TILE 6
#endif

#define EACH_4(DO) DO(0) DO(1) DO(2) DO(3)
#define EACH_6(DO) EACH_4(DO) DO(4) DO(5)
#define EACH_8(DO) EACH_6(DO) DO(6) DO(7)
#define EACH_12(DO) EACH_8(DO) DO(8) DO(9) DO(10) DO(11)
#define EACH_16(DO) EACH_12(DO) DO(12) DO(13) DO(14) DO(15)
#define EACH_24(DO) EACH_16(DO) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#define EACH_OF(COUNT, DO) EACH_##COUNT(DO)
#define EACH(COUNT, DO) EACH_OF(COUNT, DO)

// The compiler must not merge two steps or move one out of the loop. "v" is any vector register, "x" one of 16.
#define KEEP(value) __asm__ volatile("" : "+v"(value))

// Runs STEP(0), STEP(1), ... in each of `rounds` rounds, on variables a0, a1, ... that begin as `zero`.
#define BEGIN(i) __typeof__(zero) a##i = zero; KEEP(a##i);
#define LOOP(COUNT, STEP)                                   \
    EACH(COUNT, BEGIN)                                      \
    for (int64_t round = 0; round < rounds; round++) {      \
        EACH(COUNT, STEP)                                   \
    }

#if defined(HAS_TILES)
// Tiles of 16 rows of 64 bytes. Tiles 6 and 7 are the factors; an instruction must name three different tiles.
#define LOOP_OVER_TILES(STEP)                                                        \
    struct { uint8_t palette, zero[15]; uint16_t bytes[16]; uint8_t rows[16]; }      \
        shape = {.palette = 1};                                                      \
    for (int i = 0; i < 8; i++) { shape.bytes[i] = 64; shape.rows[i] = 16; }         \
    /* gcc 12 thinks that loading reads 8 bytes, and leaves the others unwritten */  \
    __asm__ volatile("" : : "r"(&shape) : "memory");                                 \
    _tile_loadconfig(&shape);                                                        \
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);                      \
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);                      \
    for (int64_t round = 0; round < rounds; round++) {                               \
        EACH(ACCUMULATORS_TILE, STEP)                                                \
    }                                                                                \
    _tile_release()

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };  // ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA in Linux

static int may_use_tiles(void) {  // Linux gives the registers of tiles to processes that ask
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

// Each function runs `rounds` rounds of the widest instruction and returns how many multiply-accumulates these were, or
// 0 where there is no such instruction.

int64_t run_fp32(int64_t rounds) {
#if defined(__AVX512F__)
    __m512 zero = _mm512_setzero_ps(), x = _mm512_set1_ps(1e-9f);
    KEEP(x);
#define FMA512(i) a##i = _mm512_fmadd_ps(x, x, a##i); KEEP(a##i);
    LOOP(ACCUMULATORS_512, FMA512)
    return rounds * ACCUMULATORS_512 * 16;
#elif defined(__AVX2__) && defined(__FMA__)
    __m256 zero = _mm256_setzero_ps(), x = _mm256_set1_ps(1e-9f);
    KEEP(x);
#define FMA256(i) a##i = _mm256_fmadd_ps(x, x, a##i); KEEP(a##i);
    LOOP(ACCUMULATORS_256, FMA256)
    return rounds * ACCUMULATORS_256 * 8;
#else
    (void)rounds;
    return 0;
#endif
}

int64_t run_bf16(int64_t rounds) {
#if defined(HAS_BF16_TILES)
    if (may_use_tiles()) {
#define TILE_BF16(i) _tile_dpbf16ps(i, 6, 7);
        LOOP_OVER_TILES(TILE_BF16);
        return rounds * ACCUMULATORS_TILE * 16 * 16 * 32;
    }
#endif
#if defined(__AVX512BF16__)
    __m512 zero = _mm512_setzero_ps();
    __m512bh x = (__m512bh)_mm512_setzero_si512();
    KEEP(x);
#define DPBF16(i) a##i = _mm512_dpbf16_ps(a##i, x, x); KEEP(a##i);
    LOOP(ACCUMULATORS_512, DPBF16)
    return rounds * ACCUMULATORS_512 * 32;
#else
    (void)rounds;
    return 0;
#endif
}

// Without a dot product of bytes three instructions do its work: products summed in pairs to 16 bits, these in pairs to
// 32 bits, and the addition. Sums of more products would not fit 16 bits, so none of the three can be saved. The peak
// is what the loop reaches and not what the ports would allow: a CPU gives some additions to the ports that it needs
// for products, and a kernel does not choose the ports either. Here a0, a1, ... are products, each added a round after
// it was computed, so that nothing waits. An addition takes one cycle: two sums are enough.
#define ADD_MULTIPLY_WIDEN(i, ADD, MULTIPLY, WIDEN)          \
    sums[i % 2] = ADD(sums[i % 2], a##i); KEEP(sums[i % 2]); \
    a##i = MULTIPLY(x, x); KEEP(a##i); KEEP(x);              \
    a##i = WIDEN(a##i, x); KEEP(a##i);

int64_t run_int8(int64_t rounds) {
#if defined(HAS_INT8_TILES)
    if (may_use_tiles()) {
#define TILE_INT8(i) _tile_dpbusd(i, 6, 7);
        LOOP_OVER_TILES(TILE_INT8);
        return rounds * ACCUMULATORS_TILE * 16 * 16 * 64;
    }
#endif
#if defined(__AVX512VNNI__)
    __m512i zero = _mm512_setzero_si512(), x = _mm512_set1_epi8(1);
    KEEP(x);
#define DPBUSD512(i) a##i = _mm512_dpbusd_epi32(a##i, x, x); KEEP(a##i);
    LOOP(ACCUMULATORS_512, DPBUSD512)
    return rounds * ACCUMULATORS_512 * 64;
#elif defined(__AVXVNNI__)
    __m256i zero = _mm256_setzero_si256(), x = _mm256_set1_epi8(1);
    KEEP(x);
#define DPBUSD256(i) a##i = _mm256_dpbusd_avx_epi32(a##i, x, x); KEEP(a##i);
    LOOP(ACCUMULATORS_256, DPBUSD256)
    return rounds * ACCUMULATORS_256 * 32;
#elif defined(__AVX512BW__)
    __m512i zero = _mm512_setzero_si512(), x = _mm512_set1_epi16(1), sums[2] = {zero, zero};
#define MADD512(i) ADD_MULTIPLY_WIDEN(i, _mm512_add_epi32, _mm512_maddubs_epi16, _mm512_madd_epi16)
    LOOP(PRODUCTS, MADD512)
    return rounds * PRODUCTS * 64;
#elif defined(__AVX2__)
    __m256i zero = _mm256_setzero_si256(), x = _mm256_set1_epi16(1), sums[2] = {zero, zero};
#define MADD256(i) ADD_MULTIPLY_WIDEN(i, _mm256_add_epi32, _mm256_maddubs_epi16, _mm256_madd_epi16)
    LOOP(PRODUCTS, MADD256)
    return rounds * PRODUCTS * 32;
#else
    (void)rounds;
    return 0;
#endif
}
