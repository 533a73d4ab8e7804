// Reads texts from standard input: for each its length in a 4-byte word, then its bytes. Writes for each the number of
// ids and the length of the decoded text, two 4-byte words, then the ids and the text. usage: tokenize TOKENIZER_BIN
#include <cstdio>
#include <exception>
#include <iterator>
#include <vector>

#include "../../native/core/tokenizer.hpp"

namespace {

std::vector<uint8_t> read_all(std::FILE* file) {
  std::vector<uint8_t> found;
  uint8_t block[65536];
  for (size_t n; (n = std::fread(block, 1, sizeof block, file)) > 0;) found.insert(found.end(), block, block + n);
  return found;
}

void write_words(const uint32_t* words, size_t count) {
  if (count > 0) std::fwrite(words, 4, count, stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::FILE* file = argc == 2 ? std::fopen(argv[1], "rb") : nullptr;
  if (file == nullptr) return 2;
  const std::vector<uint8_t> bytes = read_all(file);
  std::fclose(file);
  try {
    const je::Tokenizer tokenizer(bytes);
    for (uint32_t size; std::fread(&size, 4, 1, stdin) == 1;) {
      std::string text(size, '\0');
      if (std::fread(text.data(), 1, size, stdin) != size) return 2;
      const std::vector<uint32_t> ids = tokenizer.encode(text);
      const std::string back = tokenizer.decode(ids.data(), ids.size());
      const uint32_t sizes[] = {static_cast<uint32_t>(ids.size()), static_cast<uint32_t>(back.size())};
      write_words(sizes, 2);
      write_words(ids.data(), ids.size());
      std::fwrite(back.data(), 1, back.size(), stdout);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
