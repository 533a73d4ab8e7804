// Counts the whole units in a JPEG's first scan. It reads the Huffman codes but decodes no coefficients. In Python,
// Pillow finds out which rows are there (runtime/image.py).
#include <algorithm>

#include "jpeg.hpp"

namespace je {
namespace {

class Units {
 public:
  explicit Units(const Jpeg& jpeg) : jpeg_(jpeg), data_(jpeg.scans[0].data) {}

  // Return the number of units that are there, at most `total`. sound: set to the number of units before the first
  // invalid code. taken: set to the data of these.
  int64_t count(int64_t total, int64_t& sound, std::string& taken) {
    int64_t done = 0;
    sound = 0;
    for (; done < total; ++done) {
      if (jpeg_.restart > 0 && done > 0 && done % jpeg_.restart == 0 && !restart(done / jpeg_.restart - 1)) break;
      if (!unit()) {
        if (at_ + 1 >= data_.size() || jpeg_.restart == 0) break;
        is_sound_ = false;  // a marker comes too early: the data missing before it counts as zeros
      }
      if (!is_sound_) continue;
      sound = done + 1;
      last_ = at_;
      last_bits_ = bits_;
      last_held_ = held_;
    }
    taken = data_.substr(0, last_);
    if (last_held_ > 0) {   // fill up with zeros after the last bit: zeros are a valid code in every table
      do taken.pop_back();  // 0xFF together with the 0 that follows it in the data
      while (last_bits_ == 0xFF && !taken.empty() && taken.back() == '\xFF');
      taken += static_cast<char>(last_bits_ >> last_held_ << last_held_);
    }
    return done;
  }

 private:
  // Go on after the next restart marker, RST0 to RST7. Return false if there is none.
  bool restart(int64_t index) {
    bits_ = held_ = 0;
    const size_t start = data_.find_first_not_of('\xFF', at_);  // fill bytes before a marker, any number
    for (; at_ + 1 < data_.size(); ++at_) {
      const int kind = static_cast<uint8_t>(data_[at_ + 1]);
      if (data_[at_] != '\xFF' || kind < 0xD0 || kind > 0xD7) continue;
      is_sound_ = is_sound_ && at_ + 1 == start && kind == 0xD0 + (index & 7);
      at_ += 2;
      return true;
    }
    return false;
  }

  bool unit() {
    const JpegScan& scan = jpeg_.scans[0];
    for (size_t i = 0; i < scan.places.size(); ++i) {
      const JpegComponent& each = jpeg_.components[static_cast<size_t>(scan.places[i])];
      const int blocks = scan.places.size() > 1 ? each.across * each.down : 1;
      for (int block = 0; block < blocks; ++block)
        if (!coefficients(scan.tables[i])) return false;
    }
    return true;
  }

  bool coefficients(int tables) {
    int symbol = next(jpeg_.codes[static_cast<size_t>(tables >> 4 & 3)]);
    if (symbol < 0 || !skip(symbol)) return false;
    for (int k = 1; k < 64 && !jpeg_.is_progressive; ++k) {
      symbol = next(jpeg_.codes[static_cast<size_t>(4 + (tables & 3))]);
      if (symbol < 0) return false;
      if ((symbol & 15) == 0) {
        if (symbol != 0xF0) break;
        k += 15;
        continue;
      }
      k += symbol >> 4;
      if (!skip(symbol & 15)) return false;
    }
    return true;
  }

  // Return the next bit; -1 if the data ends or a marker follows.
  int bit() {
    if (held_ == 0) {
      if (at_ >= data_.size()) return -1;
      bits_ = static_cast<uint8_t>(data_[at_]);
      size_t next = at_ + 1;
      if (bits_ == 0xFF) {  // data only if a 0 follows, after any number of 0xFF; otherwise a marker
        while (next < data_.size() && data_[next] == '\xFF') ++next;
        if (next >= data_.size() || data_[next] != 0) return -1;
        ++next;
      }
      at_ = next;
      held_ = 8;
    }
    return bits_ >> --held_ & 1;
  }

  bool skip(int count) {
    while (count-- > 0)
      if (bit() < 0) return false;
    return true;
  }

  // Return the symbol of the next code; 0 if the code is invalid, as libjpeg does; -1 if the data ends.
  int next(const JpegCode& code) {
    int given = 0, first = 0, index = 0;
    for (size_t length = 1; length <= 16; ++length) {
      const int more = bit();
      if (more < 0) return -1;
      given |= more;
      const int count = code.counts[length];
      if (given - count < first) return static_cast<uint8_t>(code.symbols[static_cast<size_t>(index + given - first)]);
      index += count;
      first = (first + count) << 1;
      given <<= 1;
    }
    is_sound_ = false;
    return bit() < 0 ? -1 : 0;
  }

  const Jpeg& jpeg_;
  std::string_view data_;
  size_t at_ = 0;
  int bits_ = 0, held_ = 0;
  bool is_sound_ = true;
  size_t last_ = 0;  // at_, bits_ and held_ after the last sound unit
  int last_bits_ = 0, last_held_ = 0;
};

}  // namespace

JpegUnits count_units(const Jpeg& jpeg) {
  JpegUnits found;
  if (jpeg.scans[0].places.size() < jpeg.components.size()) return found;
  int max_across = 1, max_down = 1;
  for (const JpegComponent& each : jpeg.components) {
    max_across = std::max(max_across, each.across);
    max_down = std::max(max_down, each.down);
  }
  const int height = 8 * max_down;
  const int columns = (jpeg.width + 8 * max_across - 1) / (8 * max_across);
  const int rows = (jpeg.height + height - 1) / height;
  int64_t sound = 0;
  const int64_t there = Units(jpeg).count(int64_t{columns} * rows, sound, found.data);
  // if only the last unit of a row is missing, the row counts: a part of it is there, and other decoders show it
  const auto rows_of = [&](int64_t count) {
    const bool is_begun = count < int64_t{columns} * rows && columns > 1 && count % columns == columns - 1;
    return std::min(jpeg.height, height * static_cast<int>(count / columns + is_begun));
  };
  found.num_rows = rows_of(sound);
  found.num_there = rows_of(there);
  return found;
}

}  // namespace je
