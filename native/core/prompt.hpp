// Converts text to token ids and back, with the special tokens and prompts of the Janus family (docs/prompts.md).
// Mirrors runtime/prompt.py.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.hpp"
#include "tokenizer.hpp"

namespace je {

// A message, the number of images that it is about, and its answer; no answer: it is still to be answered.
struct Turn {
  std::string message;
  size_t num_images = 0;
  std::optional<std::string> answer;
};

using Ids = std::vector<int64_t>;

// The prompts of a bundle. Immutable: any number of threads may use it.
class PromptEncoder {
 public:
  // Throws std::runtime_error, one line, if the tokenizer lacks a special token of the family.
  PromptEncoder(Tokenizer tokenizer, Template roles);

  // Return the ids of a prompt to draw, at least two. The first code follows after the last id. history: the turns
  // before, with their answers. num_image_tokens: vectors per image of the history. Throws Error JE_E_ARGUMENT, and
  // JE_E_BUNDLE if the tokenizer does not read the model's own tokens.
  Ids generation(const std::string& prompt, std::vector<Turn> history = {}, int64_t num_image_tokens = 0) const;

  // Return the ids of a conversation, with a placeholder for each image vector. The last turn's answer follows after
  // the last id. num_image_tokens: vectors per image. Throws as generation().
  Ids conversation(const std::vector<Turn>& turns, int64_t num_image_tokens) const;

  // Return the ids of the unconditional row: all but the first and the last are replaced by pad.
  Ids unconditional(const Ids& ids) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  int64_t image_placeholder() const { return placeholder_; }
  bool stops(int64_t id) const { return stop_ids_.count(id) > 0; }
  const std::u32string& stop_text() const { return stop_text_; }  // text that ends an answer; "": a token ends it

 private:
  std::string chat(const std::vector<Turn>& turns, const std::string& system, const std::string& image) const;
  std::string required(const std::string& text, const char* what) const;
  Ids ids(const std::string& text) const;

  Tokenizer tokenizer_;
  Template roles_;
  int64_t bos_, pad_, placeholder_, begin_;
  std::set<int64_t> stop_ids_;  // end of sentence, and the user's role if it is a token
  std::u32string stop_text_;    // the user's role if it is not a token
  std::vector<std::string> specials_;
};

// Converts the ids of an answer to pieces of text as they come. A piece holds whole characters. The answer ends where
// the user's next turn would begin; nothing of that turn is returned. One thread at a time. The encoder must outlive
// the stream.
class TextStream {
 public:
  explicit TextStream(const PromptEncoder& encoder) : encoder_(encoder) {}

  std::string take(int64_t id);  // return the next piece; "": nothing to show yet
  std::string rest();            // return the last piece, when no id follows
  bool is_over() const { return is_over_; }

 private:
  std::u32string unshown() const;

  const PromptEncoder& encoder_;
  std::string pending_;     // bytes whose last character is not complete
  std::u32string held_;     // what may become the stop text
  bool has_begun_ = false;  // something was shown: white space is kept from now on
  bool is_over_ = false;
};

}  // namespace je
