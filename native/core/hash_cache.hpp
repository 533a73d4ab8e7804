// Which files were found right, remembered as runtime/hash_cache.py does, in the same places.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "files.hpp"
#include "manifest.hpp"

namespace je {

// Call `check` with each file of the folder, but for those that it let pass before and that have not been touched
// since (check_all: those, too). Several at once, on threads of its own. Returns each file's stamp. Throws what it
// throws.
std::map<std::string, Stamp> check_changed(const std::string& folder, const std::vector<FileInfo>& files,
                                           const std::function<void(const FileInfo&)>& check, bool check_all);

}  // namespace je
