// The sampler of docs/sampling.md: guidance, temperature, noise, argmax. Equal to runtime/sampling.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace je {

enum class Stream : uint32_t { kImage = 0, kText = 1, kLatent = 2 };

// Ten rounds of Philox4x32.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Standard Gumbel noise of a random word.
float gumbel(uint32_t word);

// Standard normal noise, elements 0 ... count - 1 of a seed.
std::vector<float> normal(uint64_t seed, size_t count);

// uncond + s * (cond - uncond), over cond.
void guide(float* cond, const float* uncond, double guidance_scale, size_t count);

// Throws Error JE_E_BUNDLE if one of them, which the model computed, is NaN or beyond 1e30.
void check_sound(const float* values, size_t count, const char* what);

struct Choice {
  double temperature = 0, top_p = 1;
  int64_t top_k = 0;
};

// Which noise: of this seed, stream and position.
struct NoiseAt {
  uint64_t seed;
  Stream stream;
  uint32_t position;
};

// A code or token: argmax(logits / T + noise) over the kept ones, the lowest of equals; below T = 1e-6
// argmax(logits). logits (count) are written over. Throws as check_sound does.
int64_t choose(float* logits, size_t count, const Choice& how, const NoiseAt& noise);

}  // namespace je
