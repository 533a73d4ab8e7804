// Reads the values of a JSON object by name and type, and refuses keys that were not read. In Python, pydantic does
// this.
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

// Return true if the text matches [A-Za-z_][A-Za-z0-9_.]{0,255}.
inline bool is_identifier(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; };
  const auto is_part = [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '.'; };
  return !text.empty() && text.size() <= 256 && is_letter(text[0]) && std::all_of(text.begin(), text.end(), is_part);
}

// A JSON value whose destructor allocates no memory. The library's own destructor allocates for each list and object,
// and ends the process if that fails.
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

// A reader of one JSON object. Its functions throw Error JE_E_BUNDLE if a value is missing or wrong. The object must
// outlive the reader.
class ObjectReader {
 public:
  // file: its name, for errors. where: the object's place in the file, like "sizes" or "components.decoder"; "": the
  // whole file.
  ObjectReader(const nlohmann::json& object, std::string file, std::string where)
      : object_(object), file_(std::move(file)), where_(std::move(where)) {
    if (!object.is_object()) wrong("", "is no object");
  }

  // Return true if there is such a key, and count it as read.
  bool has(const char* name) {
    asked_.insert(name);
    return object_.contains(name);
  }

  // Return true if there is such a key and its value is not null.
  bool has_value(const char* name) { return has(name) && !object_.at(name).is_null(); }

  // Return a value of any type.
  const nlohmann::json& value(const char* name) {
    if (!has(name)) wrong(name, "is missing");
    return object_.at(name);
  }

  // Return a text of any length.
  std::string text(const char* name) {
    const nlohmann::json& found = value(name);
    if (!found.is_string()) wrong(name, "is no text");
    return found.get<std::string>();
  }

  // Return a text of `least` to `most` characters without control characters, so that it can be shown on a terminal.
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

  // Return a text of at most `most` characters.
  std::string text_to(const char* name, int64_t most) {
    const std::string found = text(name);
    if (static_cast<int64_t>(to_points(found).size()) > most) wrong(name, "is too long");
    return found;
  }

  // Return a text that is_identifier accepts.
  std::string identifier(const char* name) {
    const std::string found = text(name);
    if (!is_identifier(found)) wrong(name, "is no plain name");
    return found;
  }

  // Return a text that is one of `words`.
  std::string word(const char* name, std::initializer_list<const char*> words) {
    const std::string found = text(name);
    for (const char* each : words)
      if (found == each) return found;
    wrong(name, "is of another version");
  }

  // Return a whole number from `least` to `most`.
  int64_t integer(const char* name, int64_t least, int64_t most) { return checked(name, value(name), least, most); }

  // Return a number from `least` to `most`.
  double number(const char* name, double least, double most) {
    const nlohmann::json& found = value(name);
    if (!found.is_number()) wrong(name, "is no number");
    const double number = found.get<double>();
    if (!(least <= number && number <= most)) wrong(name, "is out of range");
    return number;
  }

  // Return true or false.
  bool truth(const char* name) {
    const nlohmann::json& found = value(name);
    if (!found.is_boolean()) wrong(name, "is neither true nor false");
    return found.get<bool>();
  }

  // Return a list of whole numbers, each from `least` to `most`.
  std::vector<int64_t> integers(const char* name, int64_t least, int64_t most) {
    std::vector<int64_t> found;
    for (const nlohmann::json& each : list(name)) found.push_back(checked(name, each, least, most));
    return found;
  }

  // Return a list.
  const nlohmann::json& list(const char* name) {
    const nlohmann::json& found = value(name);
    if (!found.is_array()) wrong(name, "is no list");
    return found;
  }

  // Return a reader of an object inside this one.
  ObjectReader object(const char* name) { return {value(name), file_, path(name)}; }

  // Call `take` with the key and a reader of each value of an object inside this one; the values are objects, too.
  void each(const char* name, const std::function<void(const std::string&, ObjectReader)>& take) {
    const nlohmann::json& found = value(name);
    if (!found.is_object()) wrong(name, "is no object");
    for (const auto& [key, inner] : found.items()) take(key, ObjectReader(inner, file_, path(name) + "." + key));
  }

  // Return the keys of this object.
  std::vector<std::string> keys() const {
    std::vector<std::string> found;
    for (const auto& [key, inner] : object_.items()) found.push_back(key);
    return found;
  }

  // Call `take` with a reader of each object of a list.
  void each_of_list(const char* name, const std::function<void(ObjectReader)>& take) {
    size_t index = 0;
    for (const nlohmann::json& inner : list(name)) take(ObjectReader(inner, file_, join(path(name), ".", index++)));
  }

  // Throw if the object has a key that was not read.
  void done() const {
    for (const auto& [key, inner] : object_.items())
      if (asked_.count(key) == 0) wrong(key, "is not known here");
  }

  // Throw Error JE_E_BUNDLE for a key; "": for the object itself.
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
