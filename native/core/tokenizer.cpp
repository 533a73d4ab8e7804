#include "tokenizer.hpp"

#include <algorithm>
#include <array>
#include <queue>
#include <utility>

#include "tokenizer_format.hpp"

namespace je {
namespace {

constexpr std::array<std::u32string_view, 7> kContractions = {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"};

}  // namespace

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
    if (!is_special(id)) bytes += text_of(id);
  }
  return to_utf8(to_points(bytes));
}

std::string_view Tokenizer::text_of(uint32_t id) const {
  if (id >= num_tokens_) return {};
  return std::string_view(pieces_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
}

std::vector<uint32_t> Tokenizer::added() const {
  std::vector<uint32_t> ids;
  for (const Added& each : added_) ids.push_back(each.id);
  return ids;
}

bool Tokenizer::is_special(uint32_t id) const { return std::binary_search(special_.begin(), special_.end(), id); }

bool Tokenizer::in(const Class& members, char32_t point) {
  const auto after = std::upper_bound(members.begin(), members.end(), point,
                                      [](char32_t value, const Range& range) { return value < range.least; });
  return after != members.begin() && point <= std::prev(after)->most;
}

// Split a text into added tokens of a kind and the text between them. The leftmost token wins, then the longest.
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
    const auto row = std::lower_bound(lower_.begin(), lower_.end(), point,
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
        const size_t end = step.kind == kClass ? class_end(step, piece, at) : contracted_end(step, piece, at);
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

// Return the end of the match that begins at `start`; `start` itself if there is none.
size_t Tokenizer::class_end(const Step& step, std::u32string_view text, size_t start) const {
  size_t at = start;
  const bool has_next = at + 1 < text.size();
  if ((step.flags & kOptionalSpace) && in(spaces_, text[at]) && has_next && in(step.members, text[at + 1])) ++at;
  if (!in(step.members, text[at])) return start;
  ++at;
  while ((step.flags & kRun) && at < text.size() && in(step.members, text[at])) ++at;
  return (step.flags & kToTheEnd) && at < text.size() ? start : at;
}

size_t Tokenizer::contracted_end(const Step& step, std::u32string_view text, size_t start) const {
  for (const std::u32string_view contraction : kContractions)
    if (text.compare(start, contraction.size(), contraction) == 0) return start + contraction.size();
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
  return at < text.size() && at > start + 1 ? at - 1 : at;  // the last space belongs to what follows
}

const Tokenizer::Merge* Tokenizer::find(uint32_t left, uint32_t right) const {
  const auto found = std::lower_bound(merges_.begin(), merges_.end(), std::make_pair(left, right),
                                      [](const Merge& merge, const std::pair<uint32_t, uint32_t>& pair) {
                                        return std::make_pair(merge.left, merge.right) < pair;
                                      });
  const bool is_it = found != merges_.end() && found->left == left && found->right == right;
  return is_it ? &*found : nullptr;
}

// Byte-pair encoding of one piece: the pair of the lowest rank merges first, among equals the leftmost. Bytes without a
// token are left out.
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
    bool operator<(const Offer& other) const {  // the queue returns the largest element first
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
    if (const Merge* found = find(symbols[at].id, symbols[symbols[at].after].id)) queue.push({found->rank, at, found});
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
