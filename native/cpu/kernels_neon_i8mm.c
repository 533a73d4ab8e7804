/* The kernels for Arm's NEON with int8 matrix products (Armv8.6; optional since Armv8.2). */
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels/begin.h"

#if defined(__clang__)
JE_TARGET("dotprod,i8mm")
#else
JE_TARGET("arch=armv8.2-a+dotprod+i8mm")
#endif
#define JE_KERNELS je_kernels_neon_i8mm
#define JE_INSTRUCTIONS "neon_i8mm"
#include "isa/neon_i8mm.h"
#include "kernels/kernels.h"
JE_TARGET_END
#endif
