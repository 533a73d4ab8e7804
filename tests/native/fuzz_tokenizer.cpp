// Any bytes as a tokenizer.bin: it is refused, or reads and says texts inside of its tables.
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  try {
    const je::Tokenizer tokenizer(std::vector<uint8_t>(bytes, bytes + size));
    const std::vector<uint32_t> ids = tokenizer.encode("Three  RED circles' 12 日本\xFF\n");
    tokenizer.decode(ids.data(), ids.size());
    const std::vector<uint32_t> some{0, 1, 2, tokenizer.num_tokens() - 1, tokenizer.num_tokens(), 0xFFFFFFFF};
    tokenizer.decode(some.data(), some.size());
    for (const uint32_t id : tokenizer.added()) tokenizer.text_of(id);
  } catch (const std::runtime_error&) {  // refused
  }
  return 0;
}
