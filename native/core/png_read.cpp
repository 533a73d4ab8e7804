#include "png_read.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <string>

#include "error.hpp"
#include "exif.hpp"
#include "inflate.hpp"
#include "png.hpp"

namespace je {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kMostExtra = 1 << 16;  // bytes that may follow the last row

struct Pass {
  int left, top, right, down;  // first column and row; steps to the next column and row
};
constexpr Pass kWhole[] = {{0, 0, 1, 1}};
constexpr Pass kInterlaced[] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};

struct Chunks {
  std::map<std::string, std::string_view> first;  // the first chunk of each kind that is read
  std::string data;
};

struct Header {
  int width, height, depth, colour, channels;
  bool is_interlaced;

  size_t row_bytes(int columns) const {
    return 1 + (static_cast<size_t>(columns) * static_cast<size_t>(depth * channels) + 7) / 8;
  }
  int columns(const Pass& pass) const { return (width - pass.left + pass.right - 1) / pass.right; }
  int rows(const Pass& pass) const { return (height - pass.top + pass.down - 1) / pass.down; }
  template <class Function>
  void each_pass(const Function& function) const {
    const auto call = [&](const Pass& pass) {
      if (columns(pass) > 0 && rows(pass) > 0) function(pass, columns(pass), rows(pass));
    };
    if (is_interlaced)
      for (const Pass& pass : kInterlaced) call(pass);
    else
      for (const Pass& pass : kWhole) call(pass);
  }
  size_t num_bytes() const {
    size_t total = 0;
    each_pass([&](const Pass&, int columns, int rows) { total += row_bytes(columns) * static_cast<size_t>(rows); });
    return total;
  }
};

Chunks chunks_of(std::string_view file) {
  Chunks found;
  for (size_t at = kSignatureBytes; at + 8 <= file.size();) {
    const size_t size = word_at(file.data() + at), start = at + 8;
    const std::string kind(file.substr(at + 4, 4));
    at = start + size + 4;
    if (kind == "IEND") break;
    if (kind != "IHDR" && kind != "PLTE" && kind != "tRNS" && kind != "eXIf" && kind != "IDAT") continue;
    const std::string_view body = file.substr(std::min(start, file.size()), size);
    const bool is_whole = at <= file.size();
    if (is_whole && chunk_checksum(file.substr(start - 4, size + 4)) != word_at(file.data() + start + size))
      fail(JE_E_IMAGE, "damaged: the checksum of ", kind, " is wrong");
    if (kind == "IDAT")
      found.data += body;
    else if (is_whole)
      found.first.emplace(kind, body);
  }
  return found;
}

Header header_of(std::string_view body) {
  if (body.size() != 13) fail(JE_E_IMAGE, "damaged: no header");
  const auto byte = [&](size_t at) { return static_cast<uint8_t>(body[at]); };
  const uint32_t width = word_at(body.data()), height = word_at(body.data() + 4);
  const int depth = byte(8), colour = byte(9);
  constexpr int kChannels[] = {1, 0, 3, 1, 2, 0, 4};
  const int channels = colour <= 6 ? kChannels[colour] : 0;
  bool fits = channels > 0 && (depth == 8 || depth == 16);
  if (colour == 0) fits = depth == 1 || depth == 2 || depth == 4 || depth == 8 || depth == 16;
  if (colour == 3) fits = depth == 1 || depth == 2 || depth == 4 || depth == 8;
  if (!fits || byte(10) != 0 || byte(11) != 0 || byte(12) > 1 || width == 0 || height == 0)
    fail(JE_E_IMAGE, "damaged: a header that means nothing");
  check_image_size(width, height);
  return {static_cast<int>(width), static_cast<int>(height), depth, colour, channels, byte(12) == 1};
}

// Decompress the rows: a zlib stream whose end may be missing. Its checksum is not compared, as chunks have their own.
Bytes inflated(std::string_view data, size_t expected) {
  Bytes found;
  if (data.size() < 2) return found;
  const int first = static_cast<uint8_t>(data[0]), second = static_cast<uint8_t>(data[1]);
  bool is_sound = (first & 15) == 8 && first >> 4 <= 7 && (second & 32) == 0 && (first << 8 | second) % 31 == 0;
  if (is_sound) {
    found.reserve(expected);
    is_sound = inflate(data.substr(2), expected + kMostExtra, found);
  }
  if (!is_sound)
    fail(JE_E_IMAGE, found.size() < expected + kMostExtra ? "damaged: its data is not compressed as it should be"
                                                          : "damaged: more data than pixels");
  return found;
}

// The Paeth predictor.
uint8_t paeth(int left, int up, int corner) {
  const int sum = left + up - corner;
  const int to_left = std::abs(sum - left), to_up = std::abs(sum - up), to_corner = std::abs(sum - corner);
  return static_cast<uint8_t>(to_left <= to_up && to_left <= to_corner ? left : to_up <= to_corner ? up : corner);
}

// Undo a row's filter, in place. before: the row above, already without its filter. step: bytes per pixel.
void unfilter(uint8_t* row, const uint8_t* before, size_t size, size_t step) {
  const int filter = row[-1];
  if (filter > 4) fail(JE_E_IMAGE, "damaged: a row that means nothing");
  for (size_t i = 0; i < size; ++i) {
    const int left = i < step ? 0 : row[i - step], up = before == nullptr ? 0 : before[i];
    const int corner = i < step || before == nullptr ? 0 : before[i - step];
    const int guess = filter == 1   ? left
                      : filter == 2 ? up
                      : filter == 3 ? (left + up) / 2
                      : filter == 4 ? paeth(left, up, corner)
                                    : 0;
    row[i] = static_cast<uint8_t>(row[i] + guess);
  }
}

// Converts the samples of a row to RGBA.
class Colours {
 public:
  Colours(const Header& header, const Chunks& chunks) : header_(header) {
    const auto body = [&](const char* kind) {
      const auto found = chunks.first.find(kind);
      return found == chunks.first.end() ? std::string_view() : found->second;
    };
    const std::string_view clear = body("tRNS");
    if (header.colour == 3)
      read_palette(body("PLTE"), clear);
    else if (header.colour < 3 && clear.size() == 2 * static_cast<size_t>(header.channels))
      read_clear(clear);
  }

  void put(const uint8_t* row, size_t x, uint8_t* to) const {
    std::array<int, 4> raw{};
    for (int c = 0; c < header_.channels; ++c) raw[static_cast<size_t>(c)] = sample(row, x, c);
    if (header_.colour == 3) {
      std::copy_n(palette_[static_cast<size_t>(raw[0])].data(), 4, to);
      return;
    }
    const bool has_colour = header_.colour == 2 || header_.colour == 6, has_alpha = header_.colour >= 4;
    for (size_t c = 0; c < 3; ++c) to[c] = level(raw[has_colour ? c : 0]);
    to[3] = has_alpha ? level(raw[static_cast<size_t>(header_.channels - 1)]) : is_clear(raw) ? 0 : 255;
  }

 private:
  void read_palette(std::string_view colours, std::string_view clear) {
    if (colours.size() < 3 || colours.size() > 768 || colours.size() % 3 != 0)
      fail(JE_E_IMAGE, "damaged: no palette that fits");
    for (size_t i = 0; i < palette_.size(); ++i) {
      palette_[i] = {0, 0, 0, 255};  // entries that the file does not have are black
      for (size_t c = 0; c < 3 && i < colours.size() / 3; ++c)
        palette_[i][c] = static_cast<uint8_t>(colours[3 * i + c]);
      if (clear.size() <= 256 && i < clear.size()) palette_[i][3] = static_cast<uint8_t>(clear[i]);
    }
  }

  void read_clear(std::string_view body) {
    for (size_t c = 0; c < static_cast<size_t>(header_.channels); ++c) {
      clear_[c] = static_cast<uint8_t>(body[2 * c]) << 8 | static_cast<uint8_t>(body[2 * c + 1]);
      if (clear_[c] >= 1 << header_.depth) return;
    }
    has_clear_ = true;
  }

  int sample(const uint8_t* row, size_t x, int channel) const {
    const size_t depth = static_cast<size_t>(header_.depth);
    const size_t at = x * static_cast<size_t>(header_.channels) + static_cast<size_t>(channel);
    if (depth == 16) return row[2 * at] << 8 | row[2 * at + 1];
    if (depth == 8) return row[at];
    const size_t bit = at * depth;
    return row[bit / 8] >> (8 - depth - bit % 8) & ((1 << depth) - 1);
  }

  uint8_t level(int raw) const {
    if (header_.depth == 16) return static_cast<uint8_t>(raw >> 8);
    return static_cast<uint8_t>(raw * 255 / ((1 << header_.depth) - 1));
  }

  // Return true if the sample is the transparent colour. Of 16-bit colour only the upper 8 bits are compared, as Pillow
  // keeps no others.
  bool is_clear(const std::array<int, 4>& raw) const {
    const int dropped = header_.depth == 16 && header_.colour == 2 ? 8 : 0;
    for (size_t c = 0; c < static_cast<size_t>(header_.channels); ++c)
      if (raw[c] >> dropped != clear_[c] >> dropped) return false;
    return has_clear_;
  }

  const Header& header_;
  std::array<std::array<uint8_t, 4>, 256> palette_{};
  std::array<int, 4> clear_{};
  bool has_clear_ = false;
};

// Convert all rows to RGBA.
Bytes pixels_of(const Header& header, const Colours& colours, Bytes& rows) {
  Bytes found(static_cast<size_t>(header.width) * static_cast<size_t>(header.height) * 4);
  const size_t step = static_cast<size_t>(std::max(1, header.depth * header.channels / 8));
  uint8_t* at = rows.data();
  header.each_pass([&](const Pass& pass, int columns, int count) {
    const uint8_t* before = nullptr;
    const size_t size = header.row_bytes(columns) - 1;
    for (int y = 0; y < count; ++y, at += size) {
      uint8_t* row = ++at;
      unfilter(row, before, size, step);
      before = row;
      size_t to = static_cast<size_t>(pass.top + y * pass.down) * static_cast<size_t>(header.width);
      to = (to + static_cast<size_t>(pass.left)) * 4;
      for (int x = 0; x < columns; ++x, to += static_cast<size_t>(pass.right) * 4)
        colours.put(row, static_cast<size_t>(x), found.data() + to);
    }
  });
  return found;
}

}  // namespace

void check_image_size(int64_t width, int64_t height) {
  if (height > kMaxPixels / width) fail(JE_E_IMAGE, width, "x", height, " pixels; make it smaller than 100 megapixels");
}

void check_rows(int there, int height) {
  if (2 * there < height) fail(JE_E_IMAGE, "cut short: ", there, " of ", height, " rows are there");
}

Decoded decode_png(const Bytes& file) {
  Bytes rows, pixels;
  const Chunks chunks = chunks_of({reinterpret_cast<const char*>(file.data()), file.size()});
  const auto ihdr = chunks.first.find("IHDR");
  const Header header = header_of(ihdr == chunks.first.end() ? std::string_view() : ihdr->second);
  const Colours colours(header, chunks);
  rows = inflated(chunks.data, header.num_bytes());
  Decoded found;
  found.num_rows = header.height;
  if (rows.size() < header.num_bytes()) {
    if (header.is_interlaced) fail(JE_E_IMAGE, "cut short, and interlaced");
    found.num_rows = static_cast<int>(rows.size() / header.row_bytes(header.width));
  }
  found.num_there = found.num_rows;
  check_rows(found.num_rows, header.height);
  rows.resize(header.num_bytes());
  pixels = pixels_of(header, colours, rows);
  rows = {};
  const auto exif = chunks.first.find("eXIf");
  if (exif != chunks.first.end()) found.orientation = orientation_of(exif->second);
  found.image = to_rgb({pixels.data(), header.width, header.height, header.width * 4, 4});
  return found;
}

}  // namespace je
