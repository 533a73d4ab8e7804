/* Which kernels run: the fastest that this processor has, or those asked for by name. */
#include <string.h>

#include "kernels/table.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define OS_SAVES (1u << 27)                                    /* leaf 1, ECX: the instruction xgetbv exists */
#define FMA (1u << 12)                                         /* leaf 1, ECX */
#define YMM_STATES 0x6u                                        /* the system saves 256-bit vectors */
#define ZMM_STATES 0xE6u                                       /* it also saves 512-bit vectors and masks */
#define AVX2 (1u << 5)                                         /* leaf 7, EBX */
#define F_DQ_BW_VL (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* leaf 7, EBX */
#define AVX512_VNNI (1u << 11)                                 /* leaf 7, ECX */
#define AVX_VNNI (1u << 4)                                     /* leaf 7.1, EAX */

/* Not by __builtin_cpu_supports: it needs a part of the compiler's runtime that not every compiler has. */
typedef struct {
  int avx2, avx_vnni, avx512_vnni;
} features;

static features find_features(void) {
  unsigned a, b, c, d, states, high;
  features found = {0};
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OS_SAVES) || !(c & FMA)) return found;
  __asm__("xgetbv" : "=a"(states), "=d"(high) : "c"(0));
  if ((states & YMM_STATES) != YMM_STATES || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = (b & AVX2) != 0;
  found.avx512_vnni =
      found.avx2 && (states & ZMM_STATES) == ZMM_STATES && (b & F_DQ_BW_VL) == F_DQ_BW_VL && (c & AVX512_VNNI);
  found.avx_vnni = found.avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX_VNNI);
  return found;
}

static int has_avx512_vnni(void) { return find_features().avx512_vnni; }
static int has_avx_vnni(void) { return find_features().avx_vnni; }
static int has_avx2(void) { return find_features().avx2; }

extern const je_kernels je_kernels_avx512_vnni, je_kernels_avx_vnni, je_kernels_avx512vl_vnni, je_kernels_avx2;
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

#define ASIMDDP (1ul << 20) /* of AT_HWCAP */
#define I8MM (1ul << 13)    /* of AT_HWCAP2 */

static int has_dotprod(void) { return (getauxval(AT_HWCAP) & ASIMDDP) != 0; }
static int has_i8mm(void) { return has_dotprod() && (getauxval(AT_HWCAP2) & I8MM) != 0; }
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static int has_dotprod(void) { return 1; } /* all of Apple's processors with macOS have it */
static int has_i8mm(void) {                /* since M2 */
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &found, &size, NULL, 0) == 0 && found;
}
#else
static int has_dotprod(void) { return 0; }
static int has_i8mm(void) { return 0; }
#endif

extern const je_kernels je_kernels_neon_i8mm, je_kernels_neon_dotprod;
#endif

static int always(void) { return 1; }

extern const je_kernels je_kernels_portable;

/* All instruction sets, the fastest first. Those for tests are used only if they are asked for by name. */
static const struct {
  const je_kernels* kernels;
  int (*is_here)(void);
  int is_for_tests;
} kAll[] = {
#if defined(__x86_64__)
    {&je_kernels_avx512_vnni, has_avx512_vnni, 0},
    {&je_kernels_avx_vnni, has_avx_vnni, 0},
    {&je_kernels_avx512vl_vnni, has_avx512_vnni, 1}, /* the source of avx_vnni, for tests */
    {&je_kernels_avx2, has_avx2, 0},
#elif defined(__aarch64__)
    {&je_kernels_neon_i8mm, has_i8mm, 0},
    {&je_kernels_neon_dotprod, has_dotprod, 0},
#endif
    {&je_kernels_portable, always, 1},
};

static const je_kernels* chosen; /* NULL: none was chosen yet, or there are none */

int je_choose_instructions(const char* name) {
  const int count = (int)(sizeof kAll / sizeof kAll[0]);
  for (int i = 0; i < count; i++) {
    if (name ? strcmp(name, kAll[i].kernels->name) != 0 : kAll[i].is_for_tests || !kAll[i].is_here()) continue;
    if (!kAll[i].is_here()) return 0;
    __atomic_store_n(&chosen, kAll[i].kernels, __ATOMIC_RELEASE);
    return 1;
  }
  return name ? -1 : 0;
}

const je_kernels* je_kernels_in_use(void) {
  const je_kernels* found = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  if (found || je_choose_instructions(NULL) != 1) return found;
  return __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
}

const char* je_instructions(void) {
  const je_kernels* found = je_kernels_in_use();
  return found ? found->name : NULL;
}

int je_decoder_runs_here(void) { return je_kernels_in_use() ? JE_DECODER_VERSION : 0; }
