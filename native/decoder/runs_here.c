#include "decoder.h"

int je_decoder_runs_here(void) {
    const int runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vnni");
    return runs ? JE_DECODER_VERSION : 0;
}
