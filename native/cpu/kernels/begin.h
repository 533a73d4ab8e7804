/* What a file that compiles the kernels for one instruction set includes first. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "table.h"

#define JE_PRAGMA(text) _Pragma(#text)
/* Allow instructions in the rest of the file. */
#if defined(__clang__)
#define JE_TARGET(features) JE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define JE_TARGET_END JE_PRAGMA(clang attribute pop)
#else
#define JE_TARGET(features) JE_PRAGMA(GCC target(features))
#define JE_TARGET_END
#endif

/* Sanitizers make unrolled and inlined code so large that it takes minutes to compile. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define JE_IS_CHECKED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define JE_IS_CHECKED 1
#endif
#endif

#if defined(JE_IS_CHECKED)
#define JE_INLINE static __attribute__((noinline, unused))
#else
#define JE_INLINE static inline __attribute__((always_inline))
#endif
