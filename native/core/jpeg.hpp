// What of a JPEG file makes its pixels: checked, and alone. Equal to runtime/jpeg.py.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace je {

struct JpegComponent {
  int name, across, down, table;  // samples along and down a unit; the number of its quantization table
};

struct JpegScan {
  std::string head;         // what stands before its data
  std::string_view data;    // in the file that was given
  std::vector<int> places;  // of its components
  std::vector<int> tables;  // of their Huffman codes: 16 * DC + AC
};

// A Huffman table of a file: codes of 1 to 16 bits, and what each stands for.
struct JpegCode {
  std::array<int, 17> counts{};
  std::string_view symbols;
};

struct Jpeg {
  int width = 0, height = 0, restart = 0;  // of units between markers; 0: none
  bool is_progressive = false;
  bool is_one = false;     // one scan holds all
  bool is_open = false;    // and may be cut
  bool is_coarse = false;  // scans are missing
  std::vector<JpegComponent> components;
  std::vector<JpegScan> scans;
  std::array<JpegCode, 8> codes;  // as they are at the first scan: 4 for DC, 4 for AC
  std::string_view exif;
  std::string start;     // of a file of what is needed
  size_t height_at = 0;  // in the first scan's head, where the image's height stands
};

// Throws Error JE_E_IMAGE, without the file's name.
Jpeg read_jpeg(std::string_view file);

// How much of the first scan can be decoded: rows of pixels in whole units, and their data; the rows that are there,
// damaged ones among them. 0 where that scan is not of all components.
struct JpegUnits {
  int num_rows = 0, num_there = 0;
  std::string data;
};
JpegUnits count_units(const Jpeg& jpeg);

// A file of the first scans.
std::vector<uint8_t> jpeg_file(const Jpeg& jpeg, size_t num_scans);

// A file of the first scan's `height` upper rows of pixels.
std::vector<uint8_t> upper_jpeg(const Jpeg& jpeg, std::string_view data, int height);

}  // namespace je
