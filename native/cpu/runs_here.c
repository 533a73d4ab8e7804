#include <cpuid.h>

#include "decoder.h"

#define OS_SAVES (1u << 27)                                    /* leaf 1, ECX: the instruction xgetbv exists */
#define STATES 0xE6u                                           /* the system saves 512-bit vectors and masks */
#define F_DQ_BW_VL (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* leaf 7, EBX */
#define VNNI (1u << 11)                                        /* leaf 7, ECX */

/* Not by __builtin_cpu_supports: it needs a part of the compiler's runtime that not every compiler has. */
int je_decoder_runs_here(void) {
  unsigned a, b, c, d, states, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OS_SAVES)) return 0;
  __asm__("xgetbv" : "=a"(states), "=d"(high) : "c"(0));
  if ((states & STATES) != STATES || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & F_DQ_BW_VL) == F_DQ_BW_VL && (c & VNNI) ? JE_DECODER_VERSION : 0;
}
