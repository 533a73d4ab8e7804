#include <cpuid.h>

#include "decoder.h"

#define OS_SAVES (1u << 27)                                    /* ECX of leaf 1: xgetbv is there */
#define STATES 0xE6u                                           /* the system keeps vectors of 512 bits, and masks */
#define F_DQ_BW_VL (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) /* EBX of leaf 7 */
#define VNNI (1u << 11)                                        /* ECX of leaf 7 */

/* By hand: __builtin_cpu_supports wants a part of the compiler's runtime that not every compiler brings. */
int je_decoder_runs_here(void) {
  unsigned a, b, c, d, states, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OS_SAVES)) return 0;
  __asm__("xgetbv" : "=a"(states), "=d"(high) : "c"(0));
  if ((states & STATES) != STATES || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & F_DQ_BW_VL) == F_DQ_BW_VL && (c & VNNI) ? JE_DECODER_VERSION : 0;
}
