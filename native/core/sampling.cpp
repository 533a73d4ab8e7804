#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "error.hpp"

namespace je {
namespace {

constexpr float kDropped = -std::numeric_limits<float>::infinity();
constexpr double kPi = 3.14159265358979323846;
constexpr double kMinTemperature = 1e-6;  // below this temperature the largest logit is taken
constexpr float kMaxValue = 1e30f;        // the largest logit: divided by kMinTemperature it is still finite

// Return a number inside (0, 1): the middle of one of 2^23 cells.
double uniform(uint32_t word) { return (static_cast<double>(word >> 9) + 0.5) * 0x1p-23; }

// Return an upper bound of the noise of a word, without a logarithm: -ln(-ln(u)) <= -ln(1 - u), and the leading zeros
// of 1 - u are read from the bits of the word.
float most_gumbel(uint32_t word) {
  static const std::array<float, 33> kMost = [] {
    std::array<float, 33> most{};
    for (int zeros = 0; zeros <= 32; ++zeros)  // 1 - u >= 2^-(zeros + 1), or 2^-24
      most[static_cast<size_t>(zeros)] = static_cast<float>(std::min(zeros + 1, 24) * 0.69314718056 + 1e-3);
    return most;
  }();
  const uint32_t rest = ~(word | 0x1FF);
  return kMost[rest == 0 ? 32 : static_cast<size_t>(__builtin_clz(rest))];
}

// Drop the logits below the k-th largest.
void keep_largest(float* scaled, size_t count, size_t k) {
  std::vector<float> sorted(scaled, scaled + count);
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(k - 1), sorted.end(),
                   std::greater<float>());
  const float least = sorted[k - 1];
  for (size_t i = 0; i < count; ++i)
    if (!(scaled[i] >= least)) scaled[i] = kDropped;
}

// Keep a logit if the probabilities of all likelier ones sum to less than p.
void keep_nucleus(float* scaled, size_t count, double p) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scaled[a] > scaled[b]; });
  std::vector<double> probs(count);
  const double largest = scaled[order[0]];
  for (size_t i = 0; i < count; ++i) probs[i] = std::exp(scaled[order[i]] - largest);
  const double total = std::accumulate(probs.begin(), probs.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const double prob = probs[i] / total;
    sum += prob;
    if (!(sum - prob < p)) scaled[order[i]] = kDropped;
  }
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  auto [c0, c1, c2, c3] = counter;
  auto [k0, k1] = key;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

float gumbel(uint32_t word) { return static_cast<float>(-std::log(-std::log(uniform(word)))); }

std::vector<float> normal(uint64_t seed, size_t count) {
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  std::vector<float> made((count + 3) / 4 * 4);
  for (size_t block = 0; block < made.size() / 4; ++block) {
    const auto words = philox({static_cast<uint32_t>(block), 0, static_cast<uint32_t>(Stream::kLatent), 0}, key);
    for (size_t pair = 0; pair < 4; pair += 2) {  // Box-Muller transform
      const double radius = std::sqrt(-2 * std::log(uniform(words[pair])));
      const double angle = 2 * kPi * uniform(words[pair + 1]);
      made[4 * block + pair] = static_cast<float>(radius * std::cos(angle));
      made[4 * block + pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
  made.resize(count);
  return made;
}

void guide(float* cond, const float* uncond, double guidance_scale, size_t count) {
  const float scale = static_cast<float>(guidance_scale);
  for (size_t i = 0; i < count; ++i) cond[i] = uncond[i] + scale * (cond[i] - uncond[i]);
}

bool is_greedy(double temperature) { return temperature < kMinTemperature; }

void fail_unsound(const char* what) {
  fail(JE_E_BUNDLE, "the model computes ", what,
       " that are NaN or beyond 1e30; its weights are damaged, or overflow in this precision: export it again");
}

void check_sound(const float* values, size_t count, const char* what) {
  bool is_sound = true;
  for (size_t i = 0; i < count; ++i) is_sound &= std::fabs(values[i]) <= kMaxValue;  // NaN is never <=
  if (!is_sound) fail_unsound(what);
}

int64_t choose(float* logits, size_t count, const Choice& choice, const NoiseAt& noise) {
  check_sound(logits, count, "logits");
  if (is_greedy(choice.temperature)) return std::max_element(logits, logits + count) - logits;
  const float temperature = static_cast<float>(choice.temperature);
  for (size_t i = 0; i < count; ++i) logits[i] /= temperature;
  if (choice.top_k > 0 && choice.top_k < static_cast<int64_t>(count))
    keep_largest(logits, count, static_cast<size_t>(choice.top_k));
  if (choice.top_p < 1) keep_nucleus(logits, count, choice.top_p);
  const std::array<uint32_t, 2> key{static_cast<uint32_t>(noise.seed), static_cast<uint32_t>(noise.seed >> 32)};
  int64_t best = 0;
  float most = kDropped;
  for (size_t block = 0; block < (count + 3) / 4; ++block) {
    const auto words =
        philox({static_cast<uint32_t>(block), noise.position, static_cast<uint32_t>(noise.stream), 0}, key);
    for (size_t i = 4 * block; i < std::min(count, 4 * block + 4); ++i) {
      const uint32_t word = words[i % 4];
      // A logit that cannot win needs no logarithms. That is nearly all of them once a likely one has been seen.
      if (!(logits[i] + most_gumbel(word) > most)) continue;
      const float found = logits[i] + gumbel(word);
      if (found > most) {
        most = found;
        best = static_cast<int64_t>(i);
      }
    }
  }
  return best;
}

}  // namespace je
