// Drafts of an answer. Mirrors looked_up of runtime/decode.py.
#include "drafts.hpp"

namespace je {

Ids looked_up(const Ids& ids, size_t count) {
  if (count == 0) return {};
  for (const size_t length : {3, 2}) {
    for (size_t start = ids.size() > length ? ids.size() - length : 0; start-- > 0;) {
      const auto at = ids.begin() + static_cast<std::ptrdiff_t>(start);
      if (!std::equal(at, at + static_cast<std::ptrdiff_t>(length), ids.end() - static_cast<std::ptrdiff_t>(length)))
        continue;
      Ids found = ids;  // it may run into what it adds
      for (size_t i = start + length; i < start + length + count; ++i) found.push_back(found[i]);
      return {found.begin() + static_cast<std::ptrdiff_t>(ids.size()), found.end()};
    }
  }
  return {};
}

}  // namespace je
