#include "kept.hpp"

#include <algorithm>
#include <new>

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
  auto found = items_.end();
  for (auto each = items_.begin(); each != items_.end(); ++each) {
    const size_t shared = each->context ? num_shared(key, each->context->key) : 0;
    if (shared <= best) continue;
    best = shared;
    found = each;
  }
  if (best == 0) return {nullptr, 0};
  items_.splice(items_.end(), items_, found);
  return {found->context, best};
}

void Kept::keep(Context context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto each = items_.begin(); each != items_.end();) {
    const auto next = std::next(each);
    const size_t shared = each->context ? num_shared(context.key, each->context->key) : 0;
    if (each->context && shared == context.key.size()) {  // it is kept, and more
      items_.splice(items_.end(), items_, each);
      return;
    }
    if (each->context && shared == each->context->key.size()) {
      num_bytes_ -= each->num_bytes;
      items_.erase(each);
    }
    each = next;
  }
  const size_t num_bytes = context.num_bytes();
  add({"", std::make_shared<const Context>(std::move(context)), nullptr, num_bytes});
}

std::shared_ptr<const Vectors> Kept::image(const std::string& digest) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto each = items_.begin(); each != items_.end(); ++each) {
    if (!each->vectors || each->digest != digest) continue;
    items_.splice(items_.end(), items_, each);
    return each->vectors;
  }
  return nullptr;
}

void Kept::keep_image(const std::string& digest, std::shared_ptr<const Vectors> vectors) {
  const size_t num_bytes = vectors->size() * sizeof(float);
  if (image(digest)) return;  // another thread was faster
  const std::lock_guard<std::mutex> lock(mutex_);
  add({digest, nullptr, std::move(vectors), num_bytes});
}

void Kept::restore(CachedDecoder& decoder, size_t row, Key prompt) {
  prompt.pop_back();
  const auto [context, count] = find(prompt);
  if (context && decoder.is_on_host()) decoder.restore(row, *context, count);
}

void Kept::keep_row(const CachedDecoder& decoder, size_t row, const Key& key) {
  if (!decoder.is_on_host() || decoder.num_saved_bytes(row) > most_bytes_) return;
  try {
    keep(decoder.saved(row, key));
  } catch (const std::bad_alloc&) {  // then nothing is kept
  }
}

// Add an item, unless it is larger than all the room; forget what was used longest ago.
void Kept::add(Item item) {
  if (item.num_bytes > most_bytes_) return;
  num_bytes_ += item.num_bytes;
  items_.push_back(std::move(item));
  for (; num_bytes_ > most_bytes_; items_.pop_front()) num_bytes_ -= items_.front().num_bytes;
}

std::string image_digest(const std::vector<float>& pixels) {
  return sha256(reinterpret_cast<const uint8_t*>(pixels.data()), pixels.size() * sizeof(float));
}

int64_t image_key(const std::string& digest) {
  return -1 - static_cast<int64_t>(std::stoull(digest.substr(0, 16), nullptr, 16) >> 1);
}

}  // namespace je
