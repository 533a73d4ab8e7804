#include "inflate.hpp"

#include <algorithm>
#include <array>

namespace je {
namespace {

constexpr int kMostBits = 15, kFastBits = 10;

// The bits of the stream, the lowest bit of a byte first. Reading past the end sets is_short.
class Bits {
 public:
  explicit Bits(std::string_view bytes) : bytes_(bytes) {}

  // Return the next `count` bits without taking them. Bits after the end of the stream are 0.
  uint32_t peek(int count) {
    while (held_ < count && at_ < bytes_.size()) {
      bits_ |= uint64_t{static_cast<uint8_t>(bytes_[at_++])} << held_;
      held_ += 8;
    }
    return static_cast<uint32_t>(bits_ & ((uint64_t{1} << count) - 1));
  }
  bool skip(int count) {
    if (count > held_) {
      is_short = true;
      return false;
    }
    bits_ >>= count;
    held_ -= count;
    return true;
  }
  bool take(int count, uint32_t& found) {
    found = peek(count);
    return skip(count);
  }
  void align() { skip(held_ % 8); }

  bool is_short = false;

 private:
  std::string_view bytes_;
  size_t at_ = 0;
  uint64_t bits_ = 0;
  int held_ = 0;
};

// A canonical Huffman code: its symbols in the order of their codes, and a table of the short codes.
class Code {
 public:
  // Make the code from the lengths of its symbols. Return false if they are no valid code. As in zlib, an incomplete
  // code is valid only if it has a single symbol of one bit, or none.
  bool make(const uint8_t* lengths, int count, bool may_be_single) {
    counts_.fill(0);
    for (int i = 0; i < count; ++i) ++counts_[lengths[i]];
    int left = 1;
    for (int bits = 1; bits <= kMostBits; ++bits) {
      left = 2 * left - counts_[static_cast<size_t>(bits)];
      if (left < 0) return false;
    }
    const int used = count - counts_[0];
    if (left > 0 && !(may_be_single && (used == 0 || (used == 1 && counts_[1] == 1)))) return false;
    std::array<int, kMostBits + 2> starts{};
    for (size_t bits = 1; bits <= kMostBits; ++bits) starts[bits + 1] = starts[bits] + counts_[bits];
    for (int i = 0; i < count; ++i)
      if (lengths[i] != 0) symbols_[static_cast<size_t>(starts[lengths[i]]++)] = static_cast<uint16_t>(i);
    fill_fast();
    return true;
  }

  // Return the next symbol; -1 if the stream ends before it, or if no symbol has this code.
  int next(Bits& bits) const {
    const uint32_t given = bits.peek(kMostBits);
    const uint16_t fast = fast_[given & ((1 << kFastBits) - 1)];
    if (fast != 0) return bits.skip(fast & 15) ? fast >> 4 : -1;
    int code = 0, first = 0, index = 0;
    for (int length = 1; length <= kMostBits; ++length) {
      code |= static_cast<int>(given >> (length - 1) & 1);
      const int count = counts_[static_cast<size_t>(length)];
      if (code - count < first) return bits.skip(length) ? symbols_[static_cast<size_t>(index + code - first)] : -1;
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    bits.skip(1);  // take the bit that is no code; sets is_short if it is missing
    return -1;
  }

 private:
  void fill_fast() {
    fast_.fill(0);
    int code = 0, index = 0;
    for (int length = 1; length <= kFastBits; ++length) {
      for (int i = 0; i < counts_[static_cast<size_t>(length)]; ++i, ++code, ++index) {
        int reversed = 0;
        for (int bit = 0; bit < length; ++bit) reversed |= (code >> bit & 1) << (length - 1 - bit);
        const int entry = symbols_[static_cast<size_t>(index)] << 4 | length;
        for (int at = reversed; at < 1 << kFastBits; at += 1 << length)
          fast_[static_cast<size_t>(at)] = static_cast<uint16_t>(entry);
      }
      code <<= 1;
    }
  }

  std::array<int, kMostBits + 1> counts_{};
  std::array<uint16_t, 288> symbols_{};
  std::array<uint16_t, 1 << kFastBits> fast_{};  // symbol << 4 | length; 0: the code is longer
};

constexpr uint16_t kLengths[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr uint8_t kLengthBits[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                   2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr uint16_t kDistances[] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                   33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                   1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr uint8_t kDistanceBits[] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                     6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
constexpr uint8_t kOrder[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

class Inflater {
 public:
  Inflater(std::string_view stream, size_t most, std::vector<uint8_t>& to) : bits_(stream), most_(most), to_(to) {}

  bool run() {
    uint32_t is_last = 0;
    while (is_last == 0) {
      uint32_t kind = 0;
      if (!bits_.take(1, is_last) || !bits_.take(2, kind)) return true;
      const bool is_sound = kind == 0 ? stored() : kind == 1 ? fixed() : kind == 2 && dynamic();
      if (bits_.is_short) return to_.size() < most_;
      if (!is_sound) return false;
    }
    return true;
  }

 private:
  bool stored() {
    bits_.align();
    uint32_t size = 0, inverse = 0, byte = 0;
    if (!bits_.take(16, size) || !bits_.take(16, inverse)) return true;
    if ((size ^ inverse) != 0xFFFF) return false;
    for (; size > 0; --size) {
      if (!bits_.take(8, byte)) return true;
      to_.push_back(static_cast<uint8_t>(byte));
      if (to_.size() >= most_) return false;
    }
    return true;
  }

  // The codes of one fixed block serve the next, as a file may have millions of them.
  bool fixed() { return (is_fixed_ || make_fixed()) && block(); }

  bool make_fixed() {
    std::array<uint8_t, 288> lengths{};
    for (size_t i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    std::array<uint8_t, 32> distances{};
    distances.fill(5);
    is_fixed_ = literals_.make(lengths.data(), 288, false) && distances_.make(distances.data(), 32, false);
    return is_fixed_;
  }

  bool dynamic() {
    is_fixed_ = false;
    uint32_t num_literals = 0, num_distances = 0, num_codes = 0, found = 0;
    if (!bits_.take(5, num_literals) || !bits_.take(5, num_distances) || !bits_.take(4, num_codes)) return true;
    num_literals += 257;
    num_distances += 1;
    if (num_literals > 286 || num_distances > 30) return false;
    std::array<uint8_t, 320> lengths{};
    for (uint32_t i = 0; i < num_codes + 4; ++i) {
      if (!bits_.take(3, found)) return true;
      lengths[kOrder[i]] = static_cast<uint8_t>(found);
    }
    if (!literals_.make(lengths.data(), 19, false)) return false;
    lengths.fill(0);
    if (!read_lengths(lengths, num_literals + num_distances)) return bits_.is_short;
    if (lengths[256] == 0) return false;  // without an end symbol the block could never end
    if (!literals_.make(lengths.data(), static_cast<int>(num_literals), true)) return false;
    if (!distances_.make(lengths.data() + num_literals, static_cast<int>(num_distances), true)) return false;
    return block();
  }

  bool read_lengths(std::array<uint8_t, 320>& lengths, uint32_t count) {
    const Code code = literals_;
    for (uint32_t i = 0; i < count;) {
      const int symbol = code.next(bits_);
      if (symbol < 0) return false;
      if (symbol < 16) {
        lengths[i++] = static_cast<uint8_t>(symbol);
        continue;
      }
      uint32_t times = 0;
      const uint8_t again = symbol == 16 && i > 0 ? lengths[i - 1] : 0;
      if (!bits_.take(symbol == 16 ? 2 : symbol == 17 ? 3 : 7, times)) return false;
      times += symbol == 18 ? 11 : 3;
      if ((symbol == 16 && i == 0) || i + times > count) return false;
      for (; times > 0; --times) lengths[i++] = again;
    }
    return true;
  }

  bool block() {
    for (;;) {
      const int symbol = literals_.next(bits_);
      if (symbol < 0) return false;
      if (symbol == 256) return true;
      if (symbol < 256)
        to_.push_back(static_cast<uint8_t>(symbol));
      else if (!copy(symbol - 257))
        return false;
      if (to_.size() >= most_) return false;
    }
  }

  bool copy(int index) {
    uint32_t extra = 0, more = 0;
    if (index > 28 || !bits_.take(kLengthBits[index], extra)) return false;
    const int place = distances_.next(bits_);
    if (place < 0 || place > 29 || !bits_.take(kDistanceBits[place], more)) return false;
    const size_t distance = kDistances[place] + more;
    if (distance > to_.size()) return false;
    for (uint32_t i = 0; i < kLengths[index] + extra; ++i) to_.push_back(to_[to_.size() - distance]);
    return true;
  }

  Bits bits_;
  size_t most_;
  std::vector<uint8_t>& to_;
  Code literals_, distances_;
  bool is_fixed_ = false;  // these are the codes of fixed blocks
};

}  // namespace

bool inflate(std::string_view stream, size_t most, std::vector<uint8_t>& to) {
  return Inflater(stream, most, to).run();
}

}  // namespace je
