// What the loops need of a bundle, compared with its manifest when it is opened. Equal to runtime/contract.py.
#pragma once

#include <map>
#include <string>

#include "manifest.hpp"

namespace je {

struct TableShape {
  int64_t rows, width;
};

// Of each look-up table.
std::map<std::string, TableShape> table_shapes(const Manifest& manifest);

// file: of the manifest, for errors. Throws Error JE_E_BUNDLE naming the first thing that does not fit.
void check_contract(const Manifest& manifest, const std::string& file);

}  // namespace je
