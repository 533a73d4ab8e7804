#include "prompt.hpp"

#include <algorithm>
#include <stdexcept>

#include "error.hpp"

namespace je {
namespace {

constexpr const char *kBos = "<｜begin▁of▁sentence｜>", *kEos = "<｜end▁of▁sentence｜>", *kPad = "<｜▁pad▁｜>",
                     *kPlaceholder = "<image_placeholder>", *kBegin = "<begin_of_image>", *kEnd = "<end_of_image>";

// The characters that Python's str.strip() removes; docs/prompts.md lists them.
bool is_space(char32_t point) {
  return (point >= 0x09 && point <= 0x0D) || (point >= 0x1C && point <= 0x20) || point == 0x85 || point == 0xA0 ||
         point == 0x1680 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
         point == 0x202F || point == 0x205F || point == 0x3000;
}

std::u32string left_stripped(const std::u32string& text) {
  return {std::find_if_not(text.begin(), text.end(), is_space), text.end()};
}

std::u32string right_stripped(std::u32string text) {
  while (!text.empty() && is_space(text.back())) text.pop_back();
  return text;
}

std::string stripped(const std::string& text) { return to_utf8(right_stripped(left_stripped(to_points(text)))); }

int64_t id_of(const Tokenizer& tokenizer, std::string_view text) {
  for (const uint32_t id : tokenizer.added())
    if (tokenizer.text_of(id) == text) return id;
  for (uint32_t id = 0; id < tokenizer.num_tokens(); ++id)
    if (tokenizer.text_of(id) == text) return id;
  throw std::runtime_error("tokenizer.bin: no token " + std::string(text) + "; export the bundle again");
}

// Refuse a tokenizer whose tables are well formed, but which does not read the tokens of a prompt.
[[noreturn]] void misread(const char* token) {
  fail(JE_E_BUNDLE, "tokenizer.bin: does not read ", token, " as the model's token; export the bundle again");
}

// Return how many of the last characters could be the beginning of the stop text.
size_t begun(const std::u32string& text, const std::u32string& stop) {
  for (size_t count = std::min(text.size(), stop.empty() ? 0 : stop.size() - 1); count > 0; --count)
    if (text.compare(text.size() - count, count, stop, 0, count) == 0) return count;
  return 0;
}

}  // namespace

PromptEncoder::PromptEncoder(Tokenizer tokenizer, Template roles)
    : tokenizer_(std::move(tokenizer)),
      roles_(std::move(roles)),
      bos_(id_of(tokenizer_, kBos)),
      pad_(id_of(tokenizer_, kPad)),
      placeholder_(id_of(tokenizer_, kPlaceholder)),
      begin_(id_of(tokenizer_, kBegin)),
      specials_{kBos, kEos, kPad, kPlaceholder, kBegin, kEnd} {
  id_of(tokenizer_, kEnd);
  stop_ids_.insert(id_of(tokenizer_, kEos));
  bool is_token = false;  // false if the role is an ordinary word of the vocabulary
  for (const uint32_t id : tokenizer_.added()) {
    if (tokenizer_.text_of(id) == roles_.user_role) {
      stop_ids_.insert(id);
      is_token = true;
    }
    // other added tokens are ordinary text: some tokenizers add ü
    if (tokenizer_.is_special(id)) specials_.emplace_back(tokenizer_.text_of(id));
  }
  if (!is_token) stop_text_ = to_points(roles_.user_role + ":");
}

Ids PromptEncoder::generation(const std::string& prompt, std::vector<Turn> history, int64_t num_image_tokens) const {
  const Turn turn{required(prompt, "prompt"), 0, std::nullopt};
  if (!history.empty()) {
    history.push_back(turn);
    Ids found = conversation(history, num_image_tokens);
    found.push_back(begin_);
    return found;
  }
  const Ids found = ids(chat({turn}, "", "") + kBegin);
  if (found.back() != begin_) misread(kBegin);
  return found;
}

Ids PromptEncoder::conversation(const std::vector<Turn>& turns, int64_t num_image_tokens) const {
  std::vector<Turn> given = turns;
  for (Turn& turn : given) {
    turn.message = required(turn.message, "question");
    if (turn.answer) turn.answer = required(*turn.answer, "answer");
  }
  std::string image = kBegin;
  for (int64_t i = 0; i < num_image_tokens; ++i) image += kPlaceholder;
  const Ids found = ids(chat(given, roles_.system_prompt, image + kEnd + "\n"));
  int64_t wanted = 0;
  for (const Turn& turn : given) wanted += static_cast<int64_t>(turn.num_images) * num_image_tokens;
  if (std::count(found.begin(), found.end(), placeholder_) != wanted) misread(kPlaceholder);
  return found;
}

Ids PromptEncoder::unconditional(const Ids& ids) const {
  Ids found(ids.size(), pad_);
  found.front() = ids.front();
  found.back() = ids.back();
  return found;
}

// Return the text of a conversation whose last answer is open.
std::string PromptEncoder::chat(const std::vector<Turn>& turns, const std::string& system,
                                const std::string& image) const {
  std::string text = system.empty() ? "" : system + "\n\n";
  for (const Turn& turn : turns) {
    text += roles_.user_role + ": ";
    for (size_t i = 0; i < turn.num_images; ++i) text += image;
    text += turn.message + "\n\n" + roles_.assistant_role + ":";
    if (turn.answer) text += " " + *turn.answer + kEos;
  }
  return text;
}

Ids PromptEncoder::ids(const std::string& text) const {
  Ids found{bos_};
  const std::vector<uint32_t> encoded = tokenizer_.encode(text);
  found.insert(found.end(), encoded.begin(), encoded.end());
  return found;
}

// Return the text without white space around it. Refuse an empty text, and one that would be read as a special token.
std::string PromptEncoder::required(const std::string& text, const char* what) const {
  std::string found = stripped(text);
  if (found.empty()) fail(JE_E_ARGUMENT, "the ", what, " is empty; say what you want in words");
  for (const std::string& token : specials_)
    if (!token.empty() && found.find(token) != std::string::npos)
      fail(JE_E_ARGUMENT, "the ", what, " contains ", token, ", a token of the model; leave it out");
  return found;
}

std::u32string TextStream::unshown() const {
  const std::u32string text = held_ + to_points(pending_);
  return has_begun_ ? text : left_stripped(text);
}

std::string TextStream::take(int64_t id) {
  const uint32_t token = static_cast<uint32_t>(id);
  const Tokenizer& tokenizer = encoder_.tokenizer();
  if (!tokenizer.is_special(token)) pending_ += tokenizer.text_of(token);
  const std::u32string text = unshown();
  const std::u32string& stop = encoder_.stop_text();
  const size_t stopped = stop.empty() ? std::u32string::npos : text.find(stop);
  if (stopped != std::u32string::npos) {
    is_over_ = true;
    return to_utf8(right_stripped(text.substr(0, stopped)));
  }
  if (!text.empty() && text.back() == kReplacement) return "";
  const size_t safe = text.size() - begun(text, stop);
  has_begun_ = has_begun_ || safe > 0;
  pending_.clear();
  held_ = text.substr(safe);
  return to_utf8(text.substr(0, safe));
}

std::string TextStream::rest() { return is_over_ ? "" : to_utf8(unshown()); }

}  // namespace je
