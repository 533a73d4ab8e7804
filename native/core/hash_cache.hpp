// Remembers which files had the right hash, in the same place and format as runtime/hash_cache.py, which it mirrors.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "files.hpp"
#include "manifest.hpp"

namespace je {

// Call `check` for the files of a folder, on several threads at once, and return the stamp of each file. Files that
// passed before and have not changed since are left out, unless check_all is set. Throws what `check` throws.
std::map<std::string, Stamp> check_changed(const std::string& folder, const std::vector<FileInfo>& files,
                                           const std::function<void(const FileInfo&)>& check, bool check_all);

}  // namespace je
