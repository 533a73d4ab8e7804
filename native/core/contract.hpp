// Checks that a manifest has what the loops need, when a bundle is opened. Mirrors runtime/contract.py.
#pragma once

#include <map>
#include <string>

#include "manifest.hpp"

namespace je {

struct TableShape {
  int64_t rows, width;
};

// Return the shape of each look-up table.
std::map<std::string, TableShape> table_shapes(const Manifest& manifest);

// file: of the manifest, for errors. Throws Error JE_E_BUNDLE naming the first thing that does not fit.
void check_contract(const Manifest& manifest, const std::string& file);

}  // namespace je
