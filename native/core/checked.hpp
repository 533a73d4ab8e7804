// Which files were found right, remembered as runtime/checked.py does, in the same places.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace je {

// Call `check` with each file of the folder, but for those that it let pass before and that have not been touched
// since. Several at once, on threads of its own. Throws what it throws.
void check_changed(const std::string& folder, const std::vector<FileInfo>& files,
                   const std::function<void(const FileInfo&)>& check);

// Every one of them.
void check_each(const std::vector<FileInfo>& files, const std::function<void(const FileInfo&)>& check);

}  // namespace je
