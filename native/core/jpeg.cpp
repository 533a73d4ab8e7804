#include "jpeg.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "error.hpp"
#include "png_read.hpp"

namespace je {
namespace {

constexpr int kEoi = 0xD9, kSos = 0xDA, kDqt = 0xDB, kDht = 0xC4, kDri = 0xDD;
constexpr size_t kMostScans = 100;
constexpr int kMostBlocks = 10;  // largest number of blocks in an interleaved unit

int byte_of(std::string_view body, size_t at) { return static_cast<uint8_t>(body[at]); }
int word_of(std::string_view body, size_t at) { return byte_of(body, at) << 8 | byte_of(body, at + 1); }

std::string framed(int marker, std::string_view body) {
  const size_t size = body.size() + 2;
  std::string found{'\xFF', static_cast<char>(marker), static_cast<char>(size >> 8), static_cast<char>(size)};
  return found.append(body);
}

std::string adobe(int transform) {
  std::string body("Adobe\0\x64\0\0\0\0", 11);
  return framed(0xEE, body + static_cast<char>(transform));
}

[[noreturn]] void refuse_header() { fail(JE_E_IMAGE, "damaged: a header that means nothing"); }
[[noreturn]] void refuse_code() { fail(JE_E_IMAGE, "damaged: a code table that means nothing"); }

// Return true if no length follows the marker. 0 stands for no marker.
bool is_alone(int marker) { return marker <= 1 || (marker >= 0xD0 && marker <= 0xD8); }
bool is_rare(int marker) {
  return marker >= 0xC3 && marker <= 0xCF && marker != kDht && marker != 0xC8 && marker != 0xCC;
}

// Return where the data of a scan ends: before the next marker and its fill bytes; npos if no marker follows.
size_t end_of_data(std::string_view file, size_t at) {
  while ((at = file.find('\xFF', at)) != std::string_view::npos) {
    const size_t start = at;
    while (at < file.size() && file[at] == '\xFF') ++at;
    if (at < file.size() && byte_of(file, at) != 0 && (byte_of(file, at) < 0xD0 || byte_of(file, at) > 0xD7))
      return start;
  }
  return std::string_view::npos;
}

class Reader {
 public:
  explicit Reader(std::string_view file) : file_(file) {}

  Jpeg read() {
    for (size_t at = 2; (at = file_.find('\xFF', at)) != std::string_view::npos;) {
      while (at < file_.size() && file_[at] == '\xFF') ++at;
      const int marker = at < file_.size() ? byte_of(file_, at) : 0;
      ++at;
      if (is_alone(marker)) continue;
      if (marker == kEoi) {
        has_end_ = true;
        break;
      }
      if (at + 2 > file_.size()) break;
      const size_t size = static_cast<size_t>(word_of(file_, at));
      if (at + std::max<size_t>(size, 2) > file_.size()) break;
      if (size < 2) fail(JE_E_IMAGE, "damaged: a part without a size");
      const std::string_view body = file_.substr(at + 2, size - 2);
      at += size;
      if (marker == kSos)
        at = scan(body, at);
      else
        part(marker, body);
    }
    finish();
    return std::move(found_);
  }

 private:
  void part(int marker, std::string_view body) {
    if (is_rare(marker)) fail(JE_E_IMAGE, "a rare kind of JPEG, lossless or arithmetic");
    if (marker >= 0xC0 && marker <= 0xC2) frame(marker, body);
    if (marker == kDqt) quantization(body);
    if (marker == kDht) huffman(body);
    if (marker == kDri) restart(body);
    if (marker == 0xE0 && body.substr(0, 5) == std::string_view("JFIF\0", 5)) has_jfif_ = true;
    if (marker == 0xE1 && body.substr(0, 6) == std::string_view("Exif\0\0", 6) && found_.exif.empty())
      found_.exif = body.substr(6);
    if (marker == 0xEE && body.substr(0, 5) == "Adobe" && body.size() >= 12) adobe_ = byte_of(body, 11);
  }

  void frame(int marker, std::string_view body) {
    if (!found_.components.empty() || body.size() < 6) refuse_header();
    const size_t count = static_cast<size_t>(byte_of(body, 5));
    found_.height = word_of(body, 1);
    found_.width = word_of(body, 3);
    const bool fits = byte_of(body, 0) == 8 && found_.width > 0 && found_.height > 0;
    if (!fits || body.size() != 6 + 3 * count || (count != 1 && count != 3 && count != 4)) refuse_header();
    std::set<int> names;
    int max_across = 0, max_down = 0;
    for (size_t i = 6; i < body.size(); i += 3) {
      const JpegComponent each{byte_of(body, i), byte_of(body, i + 1) >> 4, byte_of(body, i + 1) & 15,
                               byte_of(body, i + 2)};
      found_.components.push_back(each);
      names.insert(each.name);
      max_across = std::max(max_across, each.across);
      max_down = std::max(max_down, each.down);
    }
    for (const JpegComponent& each : found_.components) {
      const bool is_sound = each.across > 0 && each.across <= 4 && each.down > 0 && each.down <= 4 && each.table < 4;
      if (!is_sound || max_across % each.across != 0 || max_down % each.down != 0) refuse_header();
    }
    if (names.size() < count) refuse_header();
    check_image_size(found_.width, found_.height);
    if (count == 1) found_.components[0].across = found_.components[0].down = 1;
    found_.is_progressive = marker == 0xC2;
    std::string made(body.substr(0, 6));
    for (size_t i = 0; i < count; ++i) {
      const JpegComponent& each = found_.components[i];
      made +=
          {static_cast<char>(i + 1), static_cast<char>(each.across << 4 | each.down), static_cast<char>(each.table)};
    }
    found_.height_at = parts_.size() + 5;  // after the marker, the size and the precision
    parts_ += framed(marker, made);
  }

  void quantization(std::string_view body) {
    for (size_t at = 0; at < body.size();) {
      const int precision = byte_of(body, at) >> 4, number = byte_of(body, at) & 15;
      at += 1 + 64 * static_cast<size_t>(precision + 1);
      if (precision > 1 || number > 3 || at > body.size())
        fail(JE_E_IMAGE, "damaged: a quantization table that means nothing");
      tables_.insert(number);
    }
    parts_ += framed(kDqt, body);
  }

  void huffman(std::string_view body) {
    for (size_t at = 0; at < body.size();) {
      const int kind = byte_of(body, at);
      if (at + 17 > body.size() || (kind & 0xEC) != 0) refuse_code();
      JpegCode code;
      int next = 0, count = 0;
      for (size_t length = 1; length <= 16; ++length) {
        code.counts[length] = byte_of(body, at + length);
        count += code.counts[length];
        next += code.counts[length];
        if (code.counts[length] > 0 && next >= 1 << length) refuse_code();  // a code of only ones is not allowed
        next <<= 1;
      }
      at += 17;
      if (count > 256 || at + static_cast<size_t>(count) > body.size()) refuse_code();
      code.symbols = body.substr(at, static_cast<size_t>(count));
      at += code.symbols.size();
      if (kind < 16 && std::any_of(code.symbols.begin(), code.symbols.end(), [](char c) { return (c & 0xF0) != 0; }))
        refuse_code();
      tables_.insert(256 + kind);
      if (found_.scans.empty()) found_.codes[static_cast<size_t>(kind >> 4) * 4 + static_cast<size_t>(kind & 3)] = code;
    }
    parts_ += framed(kDht, body);
  }

  void restart(std::string_view body) {
    if (body.size() != 2) fail(JE_E_IMAGE, "damaged: a restart interval that means nothing");
    if (found_.scans.empty()) found_.restart = word_of(body, 0);
    parts_ += framed(kDri, body);
  }

  size_t scan(std::string_view body, size_t at) {
    const size_t count = body.empty() ? 0 : static_cast<size_t>(byte_of(body, 0));
    if (found_.components.empty() || count < 1 || count > 4 || body.size() != 4 + 2 * count) refuse_header();
    JpegScan made;
    std::set<int> needed;
    std::string head(body);
    int blocks = 0, last = -1;
    for (size_t i = 0; i < count; ++i) {
      const auto is_it = [&](const JpegComponent& each) { return each.name == byte_of(body, 1 + 2 * i); };
      const auto it = std::find_if(found_.components.begin(), found_.components.end(), is_it);
      const int place = static_cast<int>(it - found_.components.begin());
      if (it == found_.components.end() || place <= last) refuse_header();
      last = place;
      blocks += it->across * it->down;
      needed.insert(it->table);
      made.places.push_back(place);
      made.tables.push_back(byte_of(body, 2 + 2 * i));
      head[1 + 2 * i] = static_cast<char>(place + 1);
    }
    if (count > 1 && blocks > kMostBlocks) refuse_header();
    for (const JpegScan& each :
         found_.scans)  // only in a progressive file may a component be in several scans, which refine it
      for (const int place : each.places)
        if (!found_.is_progressive && std::count(made.places.begin(), made.places.end(), place) > 0) refuse_header();
    add_codes(body, count, needed);
    if (!std::includes(tables_.begin(), tables_.end(), needed.begin(), needed.end()) ||
        found_.scans.size() == kMostScans)
      fail(JE_E_IMAGE, "damaged: a scan without its tables");
    const size_t end = end_of_data(file_, at);
    found_.is_open = end == std::string_view::npos;
    made.data = file_.substr(at, end - at);  // up to the end of the file if there is no marker
    while (!made.data.empty() && made.data.back() == '\xFF') made.data.remove_suffix(1);
    made.head = parts_ + framed(kSos, head);
    parts_.clear();
    found_.scans.push_back(std::move(made));
    return std::min(end, file_.size());
  }

  // Add the Huffman tables that a scan needs to `needed`, and check its spectral selection and approximation.
  void add_codes(std::string_view body, size_t count, std::set<int>& needed) const {
    const int start = byte_of(body, body.size() - 3), stop = byte_of(body, body.size() - 2);
    const int high = byte_of(body, body.size() - 1) >> 4, low = byte_of(body, body.size() - 1) & 15;
    bool needs_dc = true, needs_ac = true;
    if (found_.is_progressive) {
      if (stop > 63 || low > 13 || (high != 0 && high != low + 1)) refuse_header();
      if (start == 0 ? stop != 0 : count > 1 || stop < start) refuse_header();
      needs_dc = start == 0 && high == 0;
      needs_ac = start > 0;
    } else if (start != 0 || high != 0 || low != 0) {
      refuse_header();
    }
    for (size_t i = 0; i < count; ++i) {
      const int chosen = byte_of(body, 2 + 2 * i);
      if (needs_dc) needed.insert(256 + (chosen >> 4));
      if (needs_ac) needed.insert(272 + (chosen & 15));
    }
  }

  // Check that all components are there. If the last scan ends with the file and is not the only one, leave it out.
  void finish() {
    const size_t every = found_.components.size();
    found_.is_one = !found_.is_progressive && found_.scans.size() == 1 && found_.scans[0].places.size() == every;
    if (found_.is_open && !found_.is_one) found_.scans.pop_back();
    std::set<int> held;
    for (const JpegScan& each : found_.scans) held.insert(each.places.begin(), each.places.end());
    if (found_.scans.empty() || held.size() < every) fail(JE_E_IMAGE, "cut short: less than half of it is there");
    found_.is_coarse = !found_.is_one && !has_end_;
    found_.start = "\xFF\xD8" + colours();
  }

  // Return the part that says which colours the components are, so that all decoders agree.
  std::string colours() const {
    const std::vector<JpegComponent>& all = found_.components;
    if (all.size() == 4) {
      if (adobe_ < 0) fail(JE_E_IMAGE, "four inks without Adobe's mark, whose white is unknown");
      return adobe(adobe_ == 0 ? 0 : 2);
    }
    const bool has_names = all.size() == 3 && all[0].name == 'R' && all[1].name == 'G' && all[2].name == 'B';
    const bool is_rgb = adobe_ == 0 || (adobe_ < 0 && has_names);
    if (all.size() == 3 && is_rgb && !has_jfif_) return adobe(0);
    return framed(0xE0, std::string_view("JFIF\0\1\1\0\0\1\0\1\0\0", 14));
  }

  std::string_view file_;
  Jpeg found_;
  std::string parts_;  // parts before the next scan
  bool has_end_ = false, has_jfif_ = false;
  int adobe_ = -1;
  std::set<int> tables_;  // numbers of quantization tables; 256 + class and number of Huffman tables
};

}  // namespace

Jpeg read_jpeg(std::string_view file) { return Reader(file).read(); }

std::vector<uint8_t> jpeg_file(const Jpeg& jpeg, size_t num_scans) {
  std::string found = jpeg.start;
  for (size_t i = 0; i < num_scans; ++i) found.append(jpeg.scans[i].head).append(jpeg.scans[i].data);
  found += "\xFF\xD9";
  return {found.begin(), found.end()};
}

std::vector<uint8_t> upper_jpeg(const Jpeg& jpeg, std::string_view data, int height) {
  std::string head = jpeg.scans[0].head;
  head[jpeg.height_at] = static_cast<char>(height >> 8);
  head[jpeg.height_at + 1] = static_cast<char>(height);
  const std::string found = (jpeg.start + head).append(data) + "\xFF\xD9";
  return {found.begin(), found.end()};
}

}  // namespace je
