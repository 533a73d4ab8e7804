// What vectors.cpp and vectors_decoding.cpp compare by.
#pragma once

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

using nlohmann::json;

inline int num_checked = 0, num_wrong = 0;

template <class Found, class Expected>
void same(const Found& found, const Expected& expected, const std::string& where) {
  ++num_checked;
  if (found == expected) return;
  ++num_wrong;
  std::cerr << where << ": " << json(found).dump() << ", not " << json(expected).dump() << '\n';
}

// Compare up to the last place of float32, where logarithms and cosines may differ.
inline void close(double found, double expected, const std::string& where) {
  ++num_checked;
  if (std::fabs(found - expected) <= 2e-7 * std::fabs(expected)) return;
  ++num_wrong;
  std::cerr << where << ": " << found << ", not " << expected << '\n';
}

// Compare with tests/vectors/decoding.json.
void check_decoding(const json& given);
