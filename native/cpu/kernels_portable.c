/* The kernels in plain C. */
#include "kernels/begin.h"

#define JE_KERNELS je_kernels_portable
#define JE_INSTRUCTIONS "portable"
#include "isa/portable.h"
#include "kernels/kernels.h"
