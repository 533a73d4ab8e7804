#include "formats.hpp"

#include <algorithm>
#include <cstddef>

namespace je {
namespace {

constexpr size_t kHead = 1024;  // bytes of a text that are searched

struct Signature {
  size_t at;
  std::string_view bytes;
  const char* name;
};

// The first signature that matches gives the name.
constexpr Signature kSignatures[] = {
    {0, {"\211PNG\015\012\032\012", 8}, "PNG"},
    {0, {"\377\330\377", 3}, "JPEG"},
    {0, {"GIF87a", 6}, "GIF"},
    {0, {"GIF89a", 6}, "GIF"},
    {8, {"WEBP", 4}, "WebP"},
    {0, {"BM", 2}, "BMP"},
    {0, {"II*\000", 4}, "TIFF"},
    {0, {"MM\000*", 4}, "TIFF"},
    {0, {"II+\000", 4}, "BigTIFF"},
    {0, {"MM\000+", 4}, "BigTIFF"},
    {0, {"\000\000\000\014jP  \015\012\207\012", 12}, "JPEG 2000"},
    {0, {"\377O\377Q", 4}, "JPEG 2000"},
    {4, {"ftypavif", 8}, "AVIF"},
    {4, {"ftypavis", 8}, "AVIF"},
    {4, {"ftyphei", 7}, "HEIC"},
    {4, {"ftyphev", 7}, "HEIC"},
    {4, {"ftypmif1", 8}, "HEIC"},
    {4, {"ftypmsf1", 8}, "HEIC"},
    {4, {"ftypcrx ", 8}, "raw photo"},
    {4, {"ftyp", 4}, "MP4 video"},
    {0, {"\000\000\000\014JXL \015\012\207\012", 12}, "JPEG XL"},
    {0, {"\377\012", 2}, "JPEG XL"},
    {0, {"%PDF", 4}, "PDF"},
    {0, {"%!PS", 4}, "PostScript"},
    {0, {"\305\320\323\306", 4}, "PostScript"},
    {0, {"8BPS", 4}, "Photoshop"},
    {0, {"gimp xcf", 8}, "GIMP"},
    {0, {"\000\000\001\000", 4}, "icon"},
    {0, {"icns", 4}, "icon"},
    {0, {"qoif", 4}, "QOI"},
    {0, {"v/1\001", 4}, "OpenEXR"},
    {0, {"#\077RADIANCE", 10}, "Radiance HDR"},
    {0, {"DDS ", 4}, "DDS"},
    {0, {"SIMPLE  =", 9}, "FITS"},
    {128, {"DICM", 4}, "DICOM"},
    {0, {"FUJIFILMCCD-RAW", 15}, "raw photo"},
    {8, {"AVI ", 4}, "AVI video"},
    {8, {"WAVE", 4}, "WAV sound"},
    {0, {"\032E\337\243", 4}, "Matroska or WebM video"},
    {0, {"OggS", 4}, "Ogg"},
    {0, {"ID3", 3}, "MP3 sound"},
    {0, {"PK\003\004", 4}, "ZIP"},
    {0, {"\037\213", 2}, "gzip"},
    {0, {"version https://git-lfs", 23}, "Git LFS pointer"},
};

// Beginnings of text files, after a byte order mark and white space, in upper or lower case.
constexpr Signature kTexts[] = {
    {0, "<svg", "SVG"}, {0, "<!doctype svg", "SVG"}, {0, "<!doctype html", "HTML"}, {0, "<html", "HTML"}};
constexpr std::string_view kRiff[] = {"WebP", "AVI video", "WAV sound"};
constexpr std::string_view kSpaces = " \t\r\n";

bool has(std::string_view file, const Signature& each) {
  return file.size() >= each.at + each.bytes.size() && file.substr(each.at, each.bytes.size()) == each.bytes;
}

std::string name_text(std::string_view file) {
  file = file.substr(0, kHead);
  if (file.substr(0, 3) == "\xEF\xBB\xBF") file.remove_prefix(3);
  const size_t start = std::min(file.find_first_not_of(kSpaces), file.size());
  std::string text(file.substr(start));
  for (char& each : text)
    if (each >= 'A' && each <= 'Z') each = static_cast<char>(each - 'A' + 'a');
  for (const Signature& each : kTexts)
    if (has(text, each)) return each.name;
  return has(text, {0, "<?xml", ""}) && text.find("<svg") != std::string::npos ? "SVG" : "";
}

}  // namespace

std::string name_format(std::string_view file) {
  for (const Signature& each : kSignatures) {
    if (!has(file, each)) continue;
    const bool is_riff = std::find(std::begin(kRiff), std::end(kRiff), each.name) != std::end(kRiff);
    if (!is_riff || has(file, {0, "RIFF", ""})) return each.name;
  }
  const bool is_pnm = file.size() > 2 && file[0] == 'P' && file[1] >= '1' && file[1] <= '6' &&
                      std::string_view(" \t\r\n#").find(file[2]) != std::string_view::npos;
  return is_pnm ? "PNM" : name_text(file);
}

}  // namespace je
