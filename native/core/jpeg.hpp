// Reads the parts of a JPEG file that determine its pixels, checks them, and leaves out all others. Mirrors
// runtime/jpeg.py.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace je {

// A colour component. across, down: its samples along and down a unit. table: number of its quantization table.
struct JpegComponent {
  int name, across, down, table;
};

// A scan: coded data of some components.
struct JpegScan {
  std::string head;         // the file's parts before its data, checked
  std::string_view data;    // a view into the file that was read
  std::vector<int> places;  // indices of its components
  std::vector<int> tables;  // numbers of their Huffman tables: 16 * DC + AC
};

// A Huffman table. counts: number of codes of each length, 1 to 16 bits. symbols: what the codes stand for, in order.
struct JpegCode {
  std::array<int, 17> counts{};
  std::string_view symbols;
};

// A JPEG file that was read.
struct Jpeg {
  int width = 0, height = 0;  // in pixels
  int restart = 0;            // units between restart markers; 0: there are none
  bool is_progressive = false;
  bool is_one = false;     // the only scan is sequential and holds all components
  bool is_open = false;    // the last scan ends with the file, without a marker: it may be cut short
  bool is_coarse = false;  // scans are missing that would refine the image
  std::vector<JpegComponent> components;
  std::vector<JpegScan> scans;
  std::array<JpegCode, 8> codes;  // tables at the first scan: 4 for DC, 4 for AC
  std::string_view exif;
  std::string start;     // the beginning of a file that holds only what is needed
  size_t height_at = 0;  // offset of the image's height in the head of the first scan
};

// Read and check a JPEG file. The result has views into `file`. Throws Error JE_E_IMAGE, without the file's name.
Jpeg read_jpeg(std::string_view file);

// How much of the first scan is there. num_rows: rows of pixels, in whole units, that can be decoded; data: their coded
// data. num_there: rows that are there, damaged ones included. Both are 0 if that scan does not hold all components.
struct JpegUnits {
  int num_rows = 0, num_there = 0;
  std::string data;
};

// Count the units of the first scan.
JpegUnits count_units(const Jpeg& jpeg);

// Return a JPEG file of the first num_scans scans.
std::vector<uint8_t> jpeg_file(const Jpeg& jpeg, size_t num_scans);

// Return a JPEG file of the upper `height` rows of pixels of the first scan. data: their coded data, of count_units.
std::vector<uint8_t> upper_jpeg(const Jpeg& jpeg, std::string_view data, int height);

}  // namespace je
