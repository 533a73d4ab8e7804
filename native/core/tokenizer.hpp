// Text to token ids and back, from the bytes of a tokenizer.bin (docs/bundle.md). Immutable once
// made: any number of threads may use one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace je {

class Tokenizer {
 public:
  // Checks every number of the tables, so that nothing is read outside of them later. Throws
  // std::runtime_error, one line, for anything but a whole tokenizer.bin of this version.
  explicit Tokenizer(const std::vector<uint8_t>& bytes);

  uint32_t num_tokens() const { return num_tokens_; }

  // What a token stands for; "" of one that there is not.
  std::string_view text_of(uint32_t id) const;

  // Tokens that are cut out of a text wherever they stand; some of them are special, not text.
  std::vector<uint32_t> added() const;
  bool is_special(uint32_t id) const;

  // Bytes that are no UTF-8 count as U+FFFD, as Python's "replace" has it. Nothing is put around.
  std::vector<uint32_t> encode(std::string_view text) const;

  // Special tokens and ids that there are not are left out. What is no UTF-8 becomes U+FFFD.
  std::string decode(const uint32_t* ids, size_t count) const;

 private:
  struct Range {
    uint32_t least, most;
  };
  using Class = std::vector<Range>;  // ascending
  struct Merge {
    uint32_t left, right, rank, made;
  };
  struct Lower {
    uint32_t point, count, points[3];
  };
  struct Added {
    uint32_t id, flags;
    std::u32string text;
  };
  struct Step {
    uint32_t kind, flags;
    Class members, numbers;  // of a contracted step: letters and numbers
  };
  struct Piece {
    std::u32string_view text;
    int64_t id;  // of an added token; -1: text
  };

  class Reader;
  static bool in(const Class& members, char32_t point);
  std::vector<Piece> cut(std::u32string_view text, uint32_t kind) const;
  std::u32string lowered(std::u32string_view text) const;
  void encode_text(std::u32string_view text, std::vector<uint32_t>& ids) const;
  size_t class_end(const Step& step, std::u32string_view text, size_t start) const;
  size_t contracted_end(const Step& step, std::u32string_view text, size_t start) const;
  void merge(const std::string& raw, std::vector<uint32_t>& ids) const;
  const Merge* find(uint32_t left, uint32_t right) const;

  uint32_t num_tokens_ = 0;
  std::vector<uint32_t> byte_ids_, offsets_, special_;
  std::vector<Merge> merges_;  // by left, then right
  std::vector<Added> added_;   // the longest first
  std::vector<Lower> lower_;   // by point
  Class spaces_;
  std::vector<Step> steps_;
  std::string pieces_;
};

// Bytes as code points; each maximal part that is no UTF-8 is one U+FFFD.
std::u32string to_points(std::string_view text);
std::string to_utf8(std::u32string_view points);
std::string well_formed(std::string_view text);  // both, one after the other

}  // namespace je
