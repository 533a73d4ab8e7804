#include "kept.hpp"

#include <algorithm>

#include "cached_decoder.hpp"
#include "sha256.hpp"

namespace je {
namespace {

// Return how many positions two sequences begin with alike.
size_t num_shared(const Key& a, const Key& b) {
  const auto length = static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + length, b.begin()).first - a.begin());
}

}  // namespace

size_t Context::num_bytes() const {
  size_t total = key.size() * sizeof(int64_t);
  for (const auto& each : caches) total += each.size();
  return total;
}

std::pair<std::shared_ptr<const Context>, size_t> Kept::find(const Key& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t best = 0;
  auto found = contexts_.end();
  for (auto each = contexts_.begin(); each != contexts_.end(); ++each) {
    const size_t shared = num_shared(key, (*each)->key);
    if (shared <= best) continue;
    best = shared;
    found = each;
  }
  if (best == 0) return {nullptr, 0};
  contexts_.splice(contexts_.end(), contexts_, found);
  return {*found, best};
}

void Kept::keep(Context context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto each = contexts_.begin(); each != contexts_.end();) {
    const size_t shared = num_shared(context.key, (*each)->key);
    if (shared == context.key.size()) {  // it is kept, and more
      contexts_.splice(contexts_.end(), contexts_, each);
      return;
    }
    each = shared == (*each)->key.size() ? contexts_.erase(each) : std::next(each);
  }
  contexts_.push_back(std::make_shared<const Context>(std::move(context)));
  make_room();
}

std::shared_ptr<const Vectors> Kept::image(const std::string& digest) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto each = images_.begin(); each != images_.end(); ++each) {
    if (each->first != digest) continue;
    images_.splice(images_.end(), images_, each);
    return images_.back().second;
  }
  return nullptr;
}

void Kept::keep_image(const std::string& digest, std::shared_ptr<const Vectors> vectors) {
  const std::lock_guard<std::mutex> lock(mutex_);
  images_.remove_if([&](const auto& each) { return each.first == digest; });
  images_.emplace_back(digest, std::move(vectors));
  make_room();
}

void Kept::restore(CachedDecoder& decoder, size_t row, Key prompt) {
  prompt.pop_back();
  const auto [context, count] = find(prompt);
  if (context && decoder.is_on_host()) decoder.restore(row, *context, count);
}

void Kept::keep_row(const CachedDecoder& decoder, size_t row, const Key& key) {
  if (most_bytes_ > 0 && decoder.is_on_host()) keep(decoder.saved(row, key));
}

// Forget contexts, then images' vectors, which are cheaper to keep.
void Kept::make_room() {
  size_t total = 0;
  for (const auto& each : contexts_) total += each->num_bytes();
  for (const auto& each : images_) total += each.second->size() * sizeof(float);
  for (; total > most_bytes_ && !contexts_.empty(); contexts_.pop_front()) total -= contexts_.front()->num_bytes();
  for (; total > most_bytes_ && !images_.empty(); images_.pop_front())
    total -= images_.front().second->size() * sizeof(float);
}

std::string image_digest(const std::vector<float>& pixels) {
  return sha256(reinterpret_cast<const uint8_t*>(pixels.data()), pixels.size() * sizeof(float));
}

int64_t image_key(const std::string& digest) {
  return -1 - static_cast<int64_t>(std::stoull(digest.substr(0, 16), nullptr, 16) >> 1);
}

}  // namespace je
