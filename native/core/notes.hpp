// Notes that are kept between runs in the user's folder: small JSON files. Mirrors runtime/notes.py, in the same
// places.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace je {

// Return the note of something in a folder of notes, named after the SHA-256 of the text that says what it is. Nothing
// if the user has no folder.
std::optional<std::filesystem::path> note_of(const char* folder, const std::string& what);

// Return what a note holds; an empty object if it is missing or damaged.
nlohmann::json read_note(const std::optional<std::filesystem::path>& note);

// Write a note, or do nothing if it has no place or cannot be written.
void write_note(const std::optional<std::filesystem::path>& note, const nlohmann::json& found);

}  // namespace je
