// Converts text to token ids and back, by a tokenizer.bin (docs/bundle.md). In Python, the tokenizers library does
// this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace je {

// A tokenizer. Immutable: any number of threads may use it.
class Tokenizer {
 public:
  // Read the bytes of a tokenizer.bin. Every number of its tables is checked, so that later nothing is read outside of
  // them. Throws std::runtime_error, one line, if they are not a whole tokenizer.bin of this version.
  explicit Tokenizer(const std::vector<uint8_t>& bytes);

  uint32_t num_tokens() const { return num_tokens_; }

  // Return the text of a token; "" if there is no such token.
  std::string_view text_of(uint32_t id) const;

  // Return the added tokens: those that are cut out of a text wherever they stand. Some of them are special.
  std::vector<uint32_t> added() const;

  // Return true if the token is special: decode leaves it out.
  bool is_special(uint32_t id) const;

  // Return the token ids of a text. Bytes that are not UTF-8 count as U+FFFD, as with Python's errors="replace". No
  // tokens are added around it.
  std::vector<uint32_t> encode(std::string_view text) const;

  // Return the text of token ids. Special tokens and unknown ids are left out. Bytes that are not UTF-8 become U+FFFD.
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
    Class members, numbers;  // of a step of kind kContracted: letters and numbers
  };
  struct Piece {
    std::u32string_view text;
    int64_t id;  // the added token; -1: other text
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
  std::vector<Merge> merges_;  // sorted by left, then right
  std::vector<Added> added_;   // sorted by length, the longest first
  std::vector<Lower> lower_;   // sorted by point
  Class spaces_;
  std::vector<Step> steps_;
  std::string pieces_;
};

constexpr char32_t kReplacement = 0xFFFD;

// Convert UTF-8 to code points. Each maximal subpart that is not UTF-8 becomes one U+FFFD.
std::u32string to_points(std::string_view text);

// Convert code points to UTF-8.
std::string to_utf8(std::u32string_view points);

// Return the text as valid UTF-8: to_points, then to_utf8. Mirrors runtime/text.py.
std::string well_formed(std::string_view text);

}  // namespace je
