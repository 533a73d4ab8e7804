#include "tokenizer.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <queue>
#include <stdexcept>

namespace je {
namespace {

constexpr uint32_t kVersion = 1, kNoToken = 0xFFFFFFFF;
constexpr uint32_t kSpecial = 1, kNormalized = 2;                 // of added tokens
constexpr uint32_t kClass = 0, kContracted = 1;                   // kinds of steps
constexpr uint32_t kOptionalSpace = 1, kRun = 2, kToTheEnd = 4;   // of steps of a class
constexpr uint32_t kLastPoint = 0x10FFFF;
constexpr uint32_t kMost = 1u << 24;  // of anything that is counted

constexpr std::array<std::u32string_view, 7> kContractions = {U"'s", U"'t",  U"'re", U"'ve",
                                                              U"'m", U"'ll", U"'d"};

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string("tokenizer.bin: ") + what + "; export the bundle again");
}

}  // namespace

// The words of the file, one after another; never past their end.
class Tokenizer::Reader {
 public:
  explicit Reader(const std::vector<uint8_t>& bytes) : bytes_(bytes) {
    if (bytes.size() < 8 || bytes.size() % 4 || std::memcmp(bytes.data(), "JETK", 4) != 0)
      fail("not a compiled tokenizer");
    at_ = 4;
  }

  uint32_t word() {
    if (bytes_.size() - at_ < 4) fail("cut short");
    const uint8_t* b = bytes_.data() + at_;
    at_ += 4;
    return static_cast<uint32_t>(b[0]) | static_cast<uint32_t>(b[1]) << 8 |
           static_cast<uint32_t>(b[2]) << 16 | static_cast<uint32_t>(b[3]) << 24;
  }

  // A number that must not be larger than this.
  uint32_t word_to(uint32_t most, const char* what) {
    const uint32_t found = word();
    if (found > most) fail(what);
    return found;
  }

  // How many follow, of so many words each: no more than the file has left.
  uint32_t count(uint32_t words) {
    const uint32_t found = word();
    check(found, words);
    return found;
  }

  void check(uint32_t found, uint32_t words) const {
    if (found > kMost || uint64_t{found} * words * 4 > bytes_.size() - at_) fail("cut short");
  }

  Class members() {
    Class found(count(2));
    uint64_t next = 0;
    for (Range& range : found) {
      range.least = word();
      range.most = word();
      if (range.least < next || range.most < range.least || range.most > kLastPoint)
        fail("a class is not in order");
      next = uint64_t{range.most} + 1;
    }
    return found;
  }

  std::string_view rest() const {
    return {reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_};
  }

 private:
  const std::vector<uint8_t>& bytes_;
  size_t at_ = 0;
};

Tokenizer::Tokenizer(const std::vector<uint8_t>& bytes) {
  Reader reader(bytes);
  if (reader.word() != kVersion) fail("of another version");
  num_tokens_ = reader.word();
  const uint32_t merges = reader.word(), added = reader.word(), lowered = reader.word();
  const uint32_t steps = reader.word(), piece_bytes = reader.word(), added_bytes = reader.word();
  if (num_tokens_ == 0 || num_tokens_ > kMost) fail("no tokens");
  const uint32_t last = num_tokens_ - 1;

  byte_ids_.resize(256);
  for (uint32_t& id : byte_ids_) {
    id = reader.word();
    if (id != kNoToken && id > last) fail("a byte's token is none");
  }
  reader.check(num_tokens_ + 1, 1);
  offsets_.resize(num_tokens_ + 1);
  for (uint32_t i = 0, before = 0; i <= num_tokens_; before = offsets_[i++]) {
    offsets_[i] = reader.word_to(piece_bytes, "a token lies outside of the text");
    if (offsets_[i] < before) fail("tokens are not in order");
  }
  if (offsets_[0] != 0 || offsets_[num_tokens_] != piece_bytes) fail("tokens leave text over");

  reader.check(merges, 4);
  merges_.resize(merges);
  for (uint32_t i = 0; i < merges; ++i) {
    Merge& merge = merges_[i];
    merge.left = reader.word_to(last, "a merge is of no token");
    merge.right = reader.word_to(last, "a merge is of no token");
    merge.rank = reader.word();
    merge.made = reader.word_to(last, "a merge makes no token");
    if (i > 0 && std::make_pair(merges_[i - 1].left, merges_[i - 1].right) >=
                     std::make_pair(merge.left, merge.right))
      fail("merges are not in order");
  }

  reader.check(added, 4);
  added_.resize(added);
  std::vector<std::pair<uint32_t, uint32_t>> places(added);  // start and length
  for (uint32_t i = 0; i < added; ++i) {
    added_[i].id = reader.word_to(last, "an added token is none");
    added_[i].flags = reader.word_to(kSpecial | kNormalized, "an added token's flags");
    places[i].first = reader.word_to(added_bytes, "an added token lies outside of the text");
    places[i].second = reader.word_to(added_bytes - places[i].first, "an added token's length");
    if (added_[i].flags & kSpecial) special_.push_back(added_[i].id);
  }
  std::sort(special_.begin(), special_.end());

  reader.check(lowered, 5);
  lower_.resize(lowered);
  for (uint32_t i = 0; i < lowered; ++i) {
    Lower& lower = lower_[i];
    lower.point = reader.word_to(kLastPoint, "a letter is none");
    lower.count = reader.word_to(3, "a letter's lower case is too long");
    for (uint32_t& point : lower.points) point = reader.word_to(kLastPoint, "a letter is none");
    if (i > 0 && lower_[i - 1].point >= lower.point) fail("letters are not in order");
  }

  spaces_ = reader.members();
  reader.check(steps, 2);
  steps_.resize(steps);
  for (Step& step : steps_) {
    step.kind = reader.word_to(kContracted, "a step of no known kind");
    step.flags = step.kind == kClass ? reader.word_to(7, "a step's flags") : 0;
    step.members = reader.members();
    if (step.kind == kContracted) step.numbers = reader.members();
  }

  const std::string_view rest = reader.rest();
  const uint64_t text_bytes = uint64_t{piece_bytes} + added_bytes;
  if (rest.size() < text_bytes || rest.size() - text_bytes > 3) fail("cut short, or too long");
  pieces_ = rest.substr(0, piece_bytes);
  for (uint32_t i = 0; i < added; ++i)
    added_[i].text = to_points(rest.substr(piece_bytes + places[i].first, places[i].second));
}

std::vector<uint32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<uint32_t> ids;
  const std::u32string points = to_points(text);
  for (const Piece& part : cut(points, 0)) {
    if (part.id >= 0) {
      ids.push_back(static_cast<uint32_t>(part.id));
      continue;
    }
    const std::u32string small = lowered(part.text);
    for (const Piece& piece : cut(small, kNormalized)) {
      if (piece.id >= 0)
        ids.push_back(static_cast<uint32_t>(piece.id));
      else
        encode_text(piece.text, ids);
    }
  }
  return ids;
}

std::string Tokenizer::decode(const uint32_t* ids, size_t count) const {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t id = ids[i];
    if (id < num_tokens_ && !is_special(id))
      bytes.append(pieces_, offsets_[id], offsets_[id + 1] - offsets_[id]);
  }
  return to_utf8(to_points(bytes));
}

bool Tokenizer::is_special(uint32_t id) const {
  return std::binary_search(special_.begin(), special_.end(), id);
}

bool Tokenizer::in(const Class& members, char32_t point) {
  const auto after =
      std::upper_bound(members.begin(), members.end(), point,
                       [](char32_t value, const Range& range) { return value < range.least; });
  return after != members.begin() && point <= std::prev(after)->most;
}

// Added tokens of a kind, the first in the text, of those the longest; and what is between.
std::vector<Tokenizer::Piece> Tokenizer::cut(std::u32string_view text, uint32_t kind) const {
  std::vector<Piece> found;
  size_t start = 0, at = 0;
  while (at < text.size()) {
    const Added* hit = nullptr;
    for (const Added& added : added_) {
      if ((added.flags & kNormalized) != kind || added.text.empty()) continue;
      if (text.compare(at, added.text.size(), added.text) == 0) {
        hit = &added;
        break;
      }
    }
    if (hit == nullptr) {
      ++at;
      continue;
    }
    if (start < at) found.push_back({text.substr(start, at - start), -1});
    found.push_back({text.substr(at, hit->text.size()), hit->id});
    start = at = at + hit->text.size();
  }
  if (start < text.size()) found.push_back({text.substr(start), -1});
  return found;
}

std::u32string Tokenizer::lowered(std::u32string_view text) const {
  std::u32string found;
  found.reserve(text.size());
  for (const char32_t point : text) {
    const auto row =
        std::lower_bound(lower_.begin(), lower_.end(), point,
                         [](const Lower& lower, char32_t value) { return lower.point < value; });
    if (row == lower_.end() || row->point != point) {
      found.push_back(point);
      continue;
    }
    for (uint32_t i = 0; i < row->count; ++i) found.push_back(row->points[i]);
  }
  return found;
}

void Tokenizer::encode_text(std::u32string_view text, std::vector<uint32_t>& ids) const {
  std::vector<std::u32string_view> pieces{text}, parts;
  for (const Step& step : steps_) {
    parts.clear();
    for (const std::u32string_view piece : pieces) {
      size_t start = 0, at = 0;
      while (at < piece.size()) {
        const size_t end =
            step.kind == kClass ? class_end(step, piece, at) : contracted_end(step, piece, at);
        if (end == at) {
          ++at;
          continue;
        }
        if (start < at) parts.push_back(piece.substr(start, at - start));
        parts.push_back(piece.substr(at, end - at));
        start = at = end;
      }
      if (start < piece.size()) parts.push_back(piece.substr(start));
    }
    pieces.swap(parts);
  }
  for (const std::u32string_view piece : pieces) merge(to_utf8(piece), ids);
}

// Where a match that begins here ends; here: there is none.
size_t Tokenizer::class_end(const Step& step, std::u32string_view text, size_t start) const {
  size_t at = start;
  const bool has_next = at + 1 < text.size();
  if ((step.flags & kOptionalSpace) && in(spaces_, text[at]) && has_next &&
      in(step.members, text[at + 1]))
    ++at;
  if (!in(step.members, text[at])) return start;
  ++at;
  while ((step.flags & kRun) && at < text.size() && in(step.members, text[at])) ++at;
  return (step.flags & kToTheEnd) && at < text.size() ? start : at;
}

size_t Tokenizer::contracted_end(const Step& step, std::u32string_view text, size_t start) const {
  for (const std::u32string_view contraction : kContractions)
    if (text.compare(start, contraction.size(), contraction) == 0)
      return start + contraction.size();
  size_t at = start;
  if (text[at] == U' ' && at + 1 < text.size()) ++at;
  const auto kind = [&](char32_t point) {
    return in(step.members, point) ? 1 : in(step.numbers, point) ? 2 : in(spaces_, point) ? 3 : 4;
  };
  const int wanted = kind(text[at]);
  if (wanted != 3) {
    while (at < text.size() && kind(text[at]) == wanted) ++at;
    return at;
  }
  at = start;
  while (at < text.size() && in(spaces_, text[at])) ++at;
  return at < text.size() && at > start + 1 ? at - 1 : at;  // a last space goes with what follows
}

const Tokenizer::Merge* Tokenizer::find(uint32_t left, uint32_t right) const {
  const auto found = std::lower_bound(
      merges_.begin(), merges_.end(), std::make_pair(left, right),
      [](const Merge& merge, const std::pair<uint32_t, uint32_t>& pair) {
        return std::make_pair(merge.left, merge.right) < pair;
      });
  const bool is_it = found != merges_.end() && found->left == left && found->right == right;
  return is_it ? &*found : nullptr;
}

// The pair of the lowest rank first, of those the leftmost; bytes without a token fall out.
void Tokenizer::merge(const std::string& raw, std::vector<uint32_t>& ids) const {
  struct Symbol {
    uint32_t id;
    int64_t before, after;
    bool is_gone;
  };
  struct Offer {
    uint32_t rank;
    int64_t at;
    const Merge* merge;
    bool operator<(const Offer& other) const {  // the queue gives the largest first
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::vector<Symbol> symbols;
  symbols.reserve(raw.size());
  for (const char byte : raw) {
    const uint32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    const int64_t at = static_cast<int64_t>(symbols.size());
    if (id != kNoToken) symbols.push_back({id, at - 1, at + 1, false});
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;
  std::priority_queue<Offer> queue;
  const auto offer = [&](int64_t at) {
    if (at < 0 || symbols[at].after < 0) return;
    if (const Merge* found = find(symbols[at].id, symbols[symbols[at].after].id))
      queue.push({found->rank, at, found});
  };
  for (size_t at = 0; at + 1 < symbols.size(); ++at) offer(static_cast<int64_t>(at));
  while (!queue.empty()) {
    const Offer best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.at];
    if (left.is_gone || left.id != best.merge->left || left.after < 0) continue;
    Symbol& right = symbols[left.after];
    if (right.id != best.merge->right) continue;
    right.is_gone = true;
    left.id = best.merge->made;
    left.after = right.after;
    if (right.after >= 0) symbols[right.after].before = best.at;
    offer(left.before);
    offer(best.at);
  }
  for (const Symbol& symbol : symbols)
    if (!symbol.is_gone) ids.push_back(symbol.id);
}

}  // namespace je
