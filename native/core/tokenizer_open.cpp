// Reads a tokenizer.bin into tables and checks every number.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "tokenizer.hpp"
#include "tokenizer_format.hpp"

namespace je {
namespace {

constexpr uint32_t kLastPoint = 0x10FFFF;
constexpr uint32_t kMost = 1u << 24;  // the largest count of anything

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string("tokenizer.bin: ") + what + "; export the bundle again");
}

}  // namespace

// Reads the 32-bit words of the file one after another, never past their end.
class Tokenizer::Reader {
 public:
  explicit Reader(const std::vector<uint8_t>& bytes) : bytes_(bytes) {
    if (bytes.size() < 8 || bytes.size() % 4 || std::memcmp(bytes.data(), "JETK", 4) != 0)
      fail("not a compiled tokenizer");
    at_ = 4;
  }

  uint32_t word() {
    if (bytes_.size() - at_ < 4) fail("cut short");
    const uint8_t* b = bytes_.data() + at_;
    at_ += 4;
    return static_cast<uint32_t>(b[0]) | static_cast<uint32_t>(b[1]) << 8 | static_cast<uint32_t>(b[2]) << 16 |
           static_cast<uint32_t>(b[3]) << 24;
  }

  // Return a word that is at most `most`. what: the error if it is larger.
  uint32_t word_to(uint32_t most, const char* what) {
    const uint32_t found = word();
    if (found > most) fail(what);
    return found;
  }

  // Return a count of items that have `words` words each. The rest of the file must be long enough for them.
  uint32_t count(uint32_t words) {
    const uint32_t found = word();
    check(found, words);
    return found;
  }

  void check(uint32_t found, uint32_t words) const {
    if (found > kMost || uint64_t{found} * words * 4 > bytes_.size() - at_) fail("cut short");
  }

  Class members() {
    Class found(count(2));
    uint64_t next = 0;
    for (Range& range : found) {
      range.least = word();
      range.most = word();
      if (range.least < next || range.most < range.least || range.most > kLastPoint) fail("a class is not in order");
      next = uint64_t{range.most} + 1;
    }
    return found;
  }

  std::string_view rest() const { return {reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_}; }

 private:
  const std::vector<uint8_t>& bytes_;
  size_t at_ = 0;
};

Tokenizer::Tokenizer(const std::vector<uint8_t>& bytes) {
  Reader reader(bytes);
  if (reader.word() != kVersion) fail("of another version");
  num_tokens_ = reader.word();
  const uint32_t merges = reader.word(), added = reader.word(), lowered = reader.word();
  const uint32_t steps = reader.word(), piece_bytes = reader.word(), added_bytes = reader.word();
  if (num_tokens_ == 0 || num_tokens_ > kMost) fail("no tokens");
  const uint32_t last = num_tokens_ - 1;

  byte_ids_.resize(256);
  for (uint32_t& id : byte_ids_) {
    id = reader.word();
    if (id != kNoToken && id > last) fail("a byte's token is none");
  }
  reader.check(num_tokens_ + 1, 1);
  offsets_.resize(num_tokens_ + 1);
  for (uint32_t i = 0, before = 0; i <= num_tokens_; before = offsets_[i++]) {
    offsets_[i] = reader.word_to(piece_bytes, "a token lies outside of the text");
    if (offsets_[i] < before) fail("tokens are not in order");
  }
  if (offsets_[0] != 0 || offsets_[num_tokens_] != piece_bytes) fail("tokens leave text over");

  reader.check(merges, 4);
  merges_.resize(merges);
  for (uint32_t i = 0; i < merges; ++i) {
    Merge& merge = merges_[i];
    merge.left = reader.word_to(last, "a merge is of no token");
    merge.right = reader.word_to(last, "a merge is of no token");
    merge.rank = reader.word();
    merge.made = reader.word_to(last, "a merge makes no token");
    if (i > 0 && std::make_pair(merges_[i - 1].left, merges_[i - 1].right) >= std::make_pair(merge.left, merge.right))
      fail("merges are not in order");
  }

  reader.check(added, 4);
  added_.resize(added);
  std::vector<std::pair<uint32_t, uint32_t>> places(added);  // start and length of each added token's text
  for (uint32_t i = 0; i < added; ++i) {
    added_[i].id = reader.word_to(last, "an added token is none");
    added_[i].flags = reader.word_to(kSpecial | kNormalized, "an added token's flags");
    places[i].first = reader.word_to(added_bytes, "an added token lies outside of the text");
    places[i].second = reader.word_to(added_bytes - places[i].first, "an added token's length");
    if (added_[i].flags & kSpecial) special_.push_back(added_[i].id);
  }
  std::sort(special_.begin(), special_.end());

  reader.check(lowered, 5);
  lower_.resize(lowered);
  for (uint32_t i = 0; i < lowered; ++i) {
    Lower& lower = lower_[i];
    lower.point = reader.word_to(kLastPoint, "a letter is none");
    lower.count = reader.word_to(3, "a letter's lower case is too long");
    for (uint32_t& point : lower.points) point = reader.word_to(kLastPoint, "a letter is none");
    if (i > 0 && lower_[i - 1].point >= lower.point) fail("letters are not in order");
  }

  spaces_ = reader.members();
  reader.check(steps, 2);
  steps_.resize(steps);
  for (Step& step : steps_) {
    step.kind = reader.word_to(kContracted, "a step of no known kind");
    step.flags = step.kind == kClass ? reader.word_to(7, "a step's flags") : 0;
    step.members = reader.members();
    if (step.kind == kContracted) step.numbers = reader.members();
  }

  const std::string_view rest = reader.rest();
  const uint64_t text_bytes = uint64_t{piece_bytes} + added_bytes;
  if (rest.size() < text_bytes || rest.size() - text_bytes > 3) fail("cut short, or too long");
  pieces_ = rest.substr(0, piece_bytes);
  for (uint32_t i = 0; i < added; ++i)
    added_[i].text = to_points(rest.substr(piece_bytes + places[i].first, places[i].second));
}

}  // namespace je
