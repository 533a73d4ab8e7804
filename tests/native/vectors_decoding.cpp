// Compares drafts, widths of passes, overlapping rows and what is kept with tests/vectors/decoding.json.
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "drafts.hpp"
#include "kept.hpp"
#include "notes.hpp"
#include "overlap.hpp"
#include "passes.hpp"
#include "vectors.hpp"

namespace {

void check_drafts(const json& given) {
  for (const json& each : given) {
    const size_t num_codes = each["num_codes"], widest = each["widest"];
    je::Drafts drafts{std::vector<int64_t>(num_codes + widest)};
    for (const json& pass : each["passes"]) {
      same(drafts.take(pass["chosen"], num_codes), pass["added"].get<int64_t>(), "drafts " + pass.dump());
      same(drafts.codes, pass["codes"].get<std::vector<int64_t>>(), "drafts, codes " + pass.dump());
    }
  }
}

// note: a file that the requests write to.
void check_passes(const json& given, const std::filesystem::path& note) {
  for (const json& request : given) {
    je::write_note(note, request["before"]);
    je::Passes passes(note);
    for (const json& pass : request["passes"]) {
      same(passes.begin(pass["most"]), pass["width"].get<int64_t>(), "width " + pass.dump());
      passes.learn(pass["accepted"].get<std::vector<int64_t>>(), pass["ms"], pass["alone"]);
    }
    passes.keep();
    same(je::read_note(note), request["after"], "note of passes");
  }
}

void check_looked_up(const json& given) {
  for (const json& each : given)
    for (size_t count = 0; count < each["drafts"].size(); ++count)
      same(je::looked_up(each["ids"], count), each["drafts"][count].get<je::Ids>(), "looked up " + each.dump());
}

void check_steps(const json& given) {
  for (const json& each : given) {
    json found = json::array();
    for (const je::Step& step : je::steps_of(each["grid"], each["window"])) {
      json made{{"kept", step.kept}, {"read", json::array()}, {"at", json::array()}, {"follows", json::array()}};
      for (const je::Place& place : step.places) {
        made["read"].push_back(place.read);
        made["at"].push_back(place.at);
        made["follows"].push_back(place.follows);
      }
      found.push_back(made);
    }
    same(found, each["steps"], "steps");
  }
}

void check_calls(const json& given) {
  je::Kept kept(given["room"].get<size_t>());
  for (const json& each : given["calls"]) {
    const std::string call = each["call"], where = "kept " + each.dump();
    if (call == "keep") {
      const je::Key key = each["key"];
      const std::vector<char> cache(16 * key.size());
      kept.keep({key, {cache, cache}});
    } else if (call == "find") {
      same(kept.find(each["key"]).second, each["length"].get<size_t>(), where);
    } else if (call == "keep_image") {
      kept.keep_image(each["digest"], std::make_shared<je::Vectors>(each["floats"].get<size_t>()));
    } else {
      const auto vectors = kept.image(each["digest"]);
      same(vectors ? vectors->size() : 0, each["floats"].get<size_t>(), where);
    }
  }
}

void check_digests(const json& given) {
  for (const json& each : given) {
    const std::string digest = je::image_digest(each["pixels"]);
    same(digest, each["digest"].get<std::string>(), "digest");
    same(je::image_key(digest), each["key"].get<int64_t>(), "key of an image");
  }
}

}  // namespace

void check_decoding(const json& given) {
  check_drafts(given["drafts"]);
  const auto folder = std::filesystem::temp_directory_path() / ("je-vectors-" + std::to_string(getpid()));
  check_passes(given["passes"], folder / "note.json");
  std::filesystem::remove_all(folder);
  check_looked_up(given["looked_up"]);
  check_steps(given["steps"]);
  for (const json& each : given["kept"]) check_calls(each);
  check_digests(given["images"]);
}
