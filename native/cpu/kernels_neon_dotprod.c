/* The kernels for Arm's NEON with dot product (Armv8.2). */
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels/begin.h"

#if defined(__clang__)
JE_TARGET("dotprod")
#else
JE_TARGET("arch=armv8.2-a+dotprod")
#endif
#define JE_KERNELS je_kernels_neon_dotprod
#define JE_INSTRUCTIONS "neon_dotprod"
#include "isa/neon.h"
#include "kernels/kernels.h"
JE_TARGET_END
#endif
