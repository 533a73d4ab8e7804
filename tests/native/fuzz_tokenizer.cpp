// Fuzz target: any bytes as a tokenizer.bin are refused, or give a tokenizer that encodes and decodes within its
// tables, and prompts that the loops can use.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "prompt.hpp"
#include "tokenizer.hpp"

namespace {

void encode_and_decode(const je::Tokenizer& tokenizer) {
  const std::vector<uint32_t> ids = tokenizer.encode("Three  RED circles' 12 日本\xFF\n");
  tokenizer.decode(ids.data(), ids.size());
  const std::vector<uint32_t> some{0, 1, 2, tokenizer.num_tokens() - 1, tokenizer.num_tokens(), 0xFFFFFFFF};
  tokenizer.decode(some.data(), some.size());
  for (const uint32_t id : tokenizer.added()) tokenizer.text_of(id);
}

void prompt(je::Tokenizer tokenizer) {
  constexpr int64_t kVectors = 3;  // vectors of an image
  const je::PromptEncoder encoder(std::move(tokenizer), {"<|User|>", "<|Assistant|>", "You are helpful."});
  const je::Ids ids = encoder.generation("three red circles");
  if (ids.size() < 2 || encoder.unconditional(ids).size() != ids.size()) std::abort();
  int64_t places = 0;
  je::TextStream stream(encoder);
  for (const int64_t id : encoder.conversation({{"What is it?", 1, "a star"}, {"And where?", 1, {}}}, kVectors)) {
    places += id == encoder.image_placeholder();
    stream.take(id);
  }
  stream.rest();
  if (places != 2 * kVectors) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  try {
    je::Tokenizer tokenizer(std::vector<uint8_t>(bytes, bytes + size));
    encode_and_decode(tokenizer);
    prompt(std::move(tokenizer));
  } catch (const std::runtime_error&) {  // refused
  }
  return 0;
}
