// What a session keeps for later requests, within a number of bytes (docs/decoding.md). Mirrors runtime/kept.py.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace je {

using Key = std::vector<int64_t>;  // ids of tokens, and for an image's vectors image_key

// Keys and values of a sequence's first positions. caches: in the order of cache_names, each (heads, positions, E).
struct Context {
  Key key;
  std::vector<std::vector<char>> caches;

  size_t num_bytes() const;
};

using Vectors = std::vector<float>;

class CachedDecoder;

// Contexts and images' vectors. What was used longest ago goes first, when room is needed. Any number of threads.
class Kept {
 public:
  // most_bytes: room for all together; 0 keeps nothing.
  explicit Kept(size_t most_bytes) : most_bytes_(most_bytes) {}

  // Return the context that shares the longest beginning with a sequence, and its length; nullptr if there is none.
  std::pair<std::shared_ptr<const Context>, size_t> find(const Key& key);

  // Keep a context in place of those that it continues.
  void keep(Context context);

  // Return the vectors of an image; nullptr if they are not kept.
  std::shared_ptr<const Vectors> image(const std::string& digest);

  void keep_image(const std::string& digest, std::shared_ptr<const Vectors> vectors);

  // Give a row of a decoder, whose caches are empty, what is kept of a prompt, less its last position.
  void restore(CachedDecoder& decoder, size_t row, Key prompt);

  // Keep what a row of a decoder has computed. key: the row's positions, as far as they are known.
  void keep_row(const CachedDecoder& decoder, size_t row, const Key& key);

 private:
  // A context, or the vectors of the image with this digest.
  struct Item {
    std::string digest;
    std::shared_ptr<const Context> context;
    std::shared_ptr<const Vectors> vectors;
    size_t num_bytes;
  };

  void add(Item item);

  std::mutex mutex_;
  size_t most_bytes_, num_bytes_ = 0;
  std::list<Item> items_;  // what was used longest ago comes first
};

// Return what tells images apart: the SHA-256 of what the vision encoder reads, in hexadecimal digits.
std::string image_digest(const std::vector<float>& pixels);

// Return what stands for an image's vectors in a context's key: below 0, as no token's id.
int64_t image_key(const std::string& digest);

}  // namespace je
