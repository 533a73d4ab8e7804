// Text to token ids and back: the special tokens and prompts of the Janus family (docs/prompts.md).
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

// A message about some images, and what was answered; nothing: to be answered.
struct Turn {
  std::string message;
  size_t num_images = 0;
  std::optional<std::string> answer;
};

using Ids = std::vector<int64_t>;

class PromptEncoder {
 public:
  // Throws std::runtime_error, one line, if a token of the family is missing.
  PromptEncoder(Tokenizer tokenizer, Template roles);

  // Ids that end where the first code follows, two at least. Throws Error JE_E_ARGUMENT, and JE_E_BUNDLE if the
  // tokenizer does not read the model's own tokens; as the next.
  Ids generation(const std::string& prompt) const;

  // Ids that end where the last turn's answer follows, with a placeholder for each image vector.
  Ids conversation(const std::vector<Turn>& turns, int64_t num_image_tokens) const;

  // The guidance row: every id but the first and the last replaced by pad.
  Ids unconditional(const Ids& ids) const;

  const Tokenizer& tokenizer() const { return tokenizer_; }
  int64_t image_placeholder() const { return placeholder_; }
  bool stops(int64_t id) const { return stop_ids_.count(id) > 0; }
  const std::u32string& stop_text() const { return stop_text_; }  // "": a token stops

 private:
  std::string chat(const std::vector<Turn>& turns, const std::string& system, const std::string& image) const;
  std::string required(const std::string& text, const char* what) const;
  Ids ids(const std::string& text) const;

  Tokenizer tokenizer_;
  Template roles_;
  int64_t bos_, pad_, placeholder_, begin_;
  std::set<int64_t> stop_ids_;  // end of sentence, and the user's role where it is a token
  std::u32string stop_text_;    // the user's role where it is none
  std::vector<std::string> specials_;
};

// Ids of an answer to pieces of text as they come: never a part of a character, nor anything of the user's
// next turn, at which it ends.
class TextStream {
 public:
  explicit TextStream(const PromptEncoder& encoder) : encoder_(encoder) {}

  std::string take(int64_t id);  // "": nothing to show yet
  std::string rest();            // what is left when no id follows
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
