// The sampler of docs/sampling.md: guidance, temperature, noise, argmax. Mirrors runtime/sampling.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace je {

// Independent streams of noise of one seed.
enum class Stream : uint32_t { kImage = 0, kText = 1, kLatent = 2 };

// Return four random words: ten rounds of Philox4x32.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Return standard Gumbel noise of a random word.
float gumbel(uint32_t word);

// Return standard normal noise: elements 0 ... count - 1 of a seed's stream kLatent.
std::vector<float> normal(uint64_t seed, size_t count);

// Classifier-free guidance, in place: cond = uncond + guidance_scale * (cond - uncond). Both have `count` logits.
void guide(float* cond, const float* uncond, double guidance_scale, size_t count);

// Throw Error JE_E_BUNDLE if a value that the model computed is NaN or its magnitude is above 1e30. what: their name.
void check_sound(const float* values, size_t count, const char* what);
[[noreturn]] void fail_unsound(const char* what);

// Return true if the largest logit is taken at this temperature, without noise.
bool is_greedy(double temperature);

// How a code or token is chosen. top_k 0: off.
struct Choice {
  double temperature = 0, top_p = 1;
  int64_t top_k = 0;
};

// Which noise is used.
struct NoiseAt {
  uint64_t seed;
  Stream stream;
  uint32_t position;
};

// Choose a code or token: argmax(logits / temperature + noise) over those that top_k and top_p keep; argmax(logits) if
// the temperature is below 1e-6. Among equals the lowest index wins. logits (count) are overwritten. Throws as
// check_sound.
int64_t choose(float* logits, size_t count, const Choice& choice, const NoiseAt& noise);

}  // namespace je
