// Values of a JSON object, each asked for by its name and type; what was not asked for is refused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "error.hpp"
#include "tokenizer.hpp"

namespace je {

// [A-Za-z_][A-Za-z0-9_.]{0,255}
inline bool is_identifier(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; };
  const auto is_part = [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '.'; };
  return !text.empty() && text.size() <= 256 && is_letter(text[0]) && std::all_of(text.begin(), text.end(), is_part);
}

// Values whose end asks for no memory: the library's own does for each list and object, where it cannot fail.
struct Tree {
  explicit Tree(nlohmann::json given) : root(std::move(given)) {}
  ~Tree() { take_apart(root); }
  Tree(const Tree&) = delete;

  nlohmann::json root;

 private:
  static void take_apart(nlohmann::json& value) {
    if (!value.is_structured()) return;
    for (nlohmann::json& each : value) take_apart(each);
    if (auto* list = value.get_ptr<nlohmann::json::array_t*>()) list->clear();
    if (auto* object = value.get_ptr<nlohmann::json::object_t*>()) object->clear();
  }
};

class ObjectReader {
 public:
  // where: of the object in its file, "sizes" or "components.decoder"; "": the file itself. Throws Error
  // JE_E_BUNDLE, as all do that are asked for what is not there.
  ObjectReader(const nlohmann::json& object, std::string file, std::string where)
      : object_(object), file_(std::move(file)), where_(std::move(where)) {
    if (!object.is_object()) wrong("", "is no object");
  }

  bool has(const char* name) {
    asked_.insert(name);
    return object_.contains(name);
  }

  // Of what may be null, which says that there is none.
  bool has_value(const char* name) { return has(name) && !object_.at(name).is_null(); }

  const nlohmann::json& value(const char* name) {
    if (!has(name)) wrong(name, "is missing");
    return object_.at(name);
  }

  std::string text(const char* name) {
    const nlohmann::json& found = value(name);
    if (!found.is_string()) wrong(name, "is no text");
    return found.get<std::string>();
  }

  // Of so many characters, none of them a control character: it may be shown on a terminal.
  std::string shown(const char* name, int64_t least, int64_t most) { return shown(name, value(name), least, most); }

  std::string shown(const char* name, const nlohmann::json& found, int64_t least, int64_t most) const {
    if (!found.is_string()) wrong(name, "is no text");
    const std::u32string points = to_points(found.get<std::string>());
    const int64_t count = static_cast<int64_t>(points.size());
    const auto is_control = [](char32_t each) { return each < 0x20 || (each >= 0x7F && each < 0xA0); };
    if (count < least || count > most || std::any_of(points.begin(), points.end(), is_control))
      wrong(name, "is no plain text of the right length");
    return found.get<std::string>();
  }

  // A text of at most so many characters.
  std::string text_to(const char* name, int64_t most) {
    const std::string found = text(name);
    if (static_cast<int64_t>(to_points(found).size()) > most) wrong(name, "is too long");
    return found;
  }

  std::string identifier(const char* name) {
    const std::string found = text(name);
    if (!is_identifier(found)) wrong(name, "is no plain name");
    return found;
  }

  // One of some words.
  std::string word(const char* name, std::initializer_list<const char*> words) {
    const std::string found = text(name);
    for (const char* each : words)
      if (found == each) return found;
    wrong(name, "is of another version");
  }

  int64_t integer(const char* name, int64_t least, int64_t most) { return checked(name, value(name), least, most); }

  double number(const char* name, double least, double most) {
    const nlohmann::json& found = value(name);
    if (!found.is_number()) wrong(name, "is no number");
    const double number = found.get<double>();
    if (!(least <= number && number <= most)) wrong(name, "is out of range");
    return number;
  }

  std::vector<int64_t> integers(const char* name, int64_t least, int64_t most) {
    std::vector<int64_t> found;
    for (const nlohmann::json& each : list(name)) found.push_back(checked(name, each, least, most));
    return found;
  }

  const nlohmann::json& list(const char* name) {
    const nlohmann::json& found = value(name);
    if (!found.is_array()) wrong(name, "is no list");
    return found;
  }

  ObjectReader object(const char* name) { return {value(name), file_, path(name)}; }

  // Each value of an object.
  void each(const char* name, const std::function<void(const std::string&, ObjectReader)>& take) {
    const nlohmann::json& found = value(name);
    if (!found.is_object()) wrong(name, "is no object");
    for (const auto& [key, inner] : found.items()) take(key, ObjectReader(inner, file_, path(name) + "." + key));
  }

  // Names of what this object holds.
  std::vector<std::string> keys() const {
    std::vector<std::string> found;
    for (const auto& [key, inner] : object_.items()) found.push_back(key);
    return found;
  }

  void each_of_list(const char* name, const std::function<void(ObjectReader)>& take) {
    size_t index = 0;
    for (const nlohmann::json& inner : list(name)) take(ObjectReader(inner, file_, join(path(name), ".", index++)));
  }

  // Nothing else may be there.
  void done() const {
    for (const auto& [key, inner] : object_.items())
      if (asked_.count(key) == 0) wrong(key, "is not known here");
  }

  [[noreturn]] void wrong(const std::string& name, const char* what) const {
    const std::string at = name.empty() ? where_ : path(name);
    fail(JE_E_BUNDLE, file_, ": ", at.empty() ? "file" : at, " ", what, "; export the bundle again");
  }

 private:
  std::string path(const std::string& name) const { return where_.empty() ? name : where_ + "." + name; }

  int64_t checked(const char* name, const nlohmann::json& found, int64_t least, int64_t most) const {
    if (!found.is_number_integer()) wrong(name, "is no whole number");
    const bool is_huge = found.is_number_unsigned() && found.get<uint64_t>() > INT64_MAX;
    const int64_t number = is_huge ? INT64_MAX : found.get<int64_t>();
    if (is_huge || number < least || number > most) wrong(name, "is out of range");
    return number;
  }

  const nlohmann::json& object_;
  std::string file_, where_;
  std::set<std::string> asked_;
};

}  // namespace je
