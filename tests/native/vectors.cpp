// Compares native/core with tests/vectors/*.json, which Python wrote. Prints the differences.
// usage: vectors FOLDER, which holds the vectors and NAME.bin of each tokenizer
#include "vectors.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "error.hpp"
#include "exif.hpp"
#include "flow.hpp"
#include "formats.hpp"
#include "pixels.hpp"
#include "prompt.hpp"
#include "sampling.hpp"
#include "sha256.hpp"

namespace {

json read(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

template <class Word, size_t N>
std::array<Word, N> array_of(const json& from) {
  std::array<Word, N> found{};
  for (size_t i = 0; i < N; ++i) found[i] = from[i].get<Word>();
  return found;
}

void check_sampling(const json& given) {
  for (const json& each : given["philox"])
    same(je::philox(array_of<uint32_t, 4>(each["counter"]), array_of<uint32_t, 2>(each["key"])),
         (array_of<uint32_t, 4>(each["words"])), "philox");
  for (const json& each : given["gumbel"]) {
    const uint64_t seed = each["seed"];
    for (size_t i = 0; i < each["words"].size(); ++i) {
      const auto words = je::philox({static_cast<uint32_t>(i / 4), each["position"], each["stream"], 0},
                                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
      same(words[i % 4], each["words"][i].get<uint32_t>(), "gumbel, word");
      close(je::gumbel(words[i % 4]), each["noise"][i], "gumbel");
    }
  }
  for (const json& each : given["normal"]) {
    const std::vector<float> found = je::normal(each["seed"], each["values"].size());
    for (size_t i = 0; i < found.size(); ++i) close(found[i], each["values"][i], "normal");
  }
  for (const json& each : given["guide"]) {
    std::vector<float> cond = each["cond"];
    const std::vector<float> uncond = each["uncond"];
    je::guide(cond.data(), uncond.data(), each["scale"], cond.size());
    same(cond, each["guided"].get<std::vector<float>>(), "guide");
  }
  for (const json& each : given["choose"]) {
    std::vector<float> logits = each["logits"];
    const je::Choice how{each["temperature"], each["top_p"], each["top_k"]};
    const je::NoiseAt noise{each["seed"], je::Stream::kImage, each["position"]};
    same(je::choose(logits.data(), logits.size(), how, noise), each["chosen"].get<int64_t>(), "choose");
  }
}

// Numbers that are not finite are strings, as JSON has none for them.
std::vector<float> floats_of(const json& from) {
  std::vector<float> found;
  for (const json& each : from)
    found.push_back(each.is_string() ? std::stof(each.get<std::string>()) : each.get<float>());
  return found;
}

void check_extremes(const json& given) {
  for (const json& each : given) {
    std::vector<float> logits = floats_of(each["cond"]);
    const double scale = each["scale"];
    if (scale != 1) je::guide(logits.data(), floats_of(each["uncond"]).data(), scale, logits.size());
    const je::Choice how{each["temperature"], each["top_p"], each["top_k"]};
    const je::NoiseAt noise{each["seed"], je::Stream::kImage, each["position"]};
    json found;  // null: choose() refuses it
    try {
      found = je::choose(logits.data(), logits.size(), how, noise);
    } catch (const je::Error& error) {
      same(error.status, JE_E_BUNDLE, "extreme, status");
    }
    same(found, each["chosen"], "extreme " + each.dump());
  }
}

void check_flow(const json& given) {
  for (const json& each : given["times"])
    same(je::timestep_schedule(each["num_steps"], each["shift"]), each["times"].get<std::vector<double>>(), "times");
  const auto field = [](const je::Latent& z, double t, bool is_guided) {
    const float weight = is_guided ? 1.5f : 1.0f;
    return je::Latent{weight * (static_cast<float>(t) - z[0] * z[0])};
  };
  for (const json& each : given["integrate"]) {
    je::FlowSettings settings{each["guidance_scale"], each["num_steps"],      each["solver"],
                              each["shift"],          each["guidance_start"], each["guidance_end"]};
    je::Flow flow(field, {1.0f}, settings);
    for (size_t i = 0; !flow.is_done(); ++i) {
      flow.step();
      same(flow.z()[0], each["z"][i].get<float>(), settings.solver + ", z");
      same(flow.denoised()[0], each["denoised"][i].get<float>(), settings.solver + ", denoised");
    }
  }
}

je::PromptEncoder encoder_of(const json& given, const std::string& folder) {
  std::ifstream file(folder + "/" + given["tokenizer"].get<std::string>() + ".bin", std::ios::binary);
  const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  const json& roles = given["template"];
  return {je::Tokenizer(bytes), {roles["user_role"], roles["assistant_role"], roles["system_prompt"]}};
}

// Compare ids, or the beginning of the error.
template <class Make>
void check_ids(const json& expected, const Make& make) {
  try {
    same(make(), expected.contains("ids") ? expected["ids"].get<je::Ids>() : je::Ids{}, expected.dump());
  } catch (const je::Error& error) {
    const std::string line = error.what();
    same(line.substr(0, line.find_first_of(",;")), expected.value("refused", ""), expected.dump());
  }
}

std::string bytes_of(const std::string& hex) {
  std::string raw;
  for (size_t i = 0; i < hex.size(); i += 2) raw.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return raw;
}

void check_formats(const json& given) {
  for (const json& each : given)
    same(je::name_format(bytes_of(each["hex"])), each["name"].get<std::string>(), "format " + each.dump());
}

void check_utf8(const json& given) {
  for (const json& each : given) {
    const std::string hex = each["hex"];
    const std::string raw = bytes_of(hex);
    same(je::well_formed(raw), each["text"].get<std::string>(), "utf8 " + hex);
  }
}

void check_prompts(const json& given, const std::string& folder) {
  for (const json& each : given["encoders"]) {
    const je::PromptEncoder encoder = encoder_of(each, folder);
    for (const json& text : each["generation"]) {
      check_ids(text, [&] { return encoder.generation(text["text"]); });
      if (text.contains("ids"))
        same(encoder.unconditional(text["ids"]), text["unconditional"].get<je::Ids>(), "unconditional");
    }
    for (const json& conversation : each["conversation"]) {
      std::vector<je::Turn> turns;
      for (const json& turn : conversation["turns"]) {
        turns.push_back({turn["message"], turn["num_images"], std::nullopt});
        if (!turn["answer"].is_null()) turns.back().answer = turn["answer"].get<std::string>();
      }
      check_ids(conversation, [&] { return encoder.conversation(turns, 2); });
    }
    for (const json& said : each["stream"]) {
      je::TextStream stream(encoder);
      std::vector<std::string> pieces;
      for (const json& id : said["ids"])
        if (!stream.is_over()) pieces.push_back(stream.take(id));
      pieces.push_back(stream.rest());
      std::vector<std::string> shown;
      for (const std::string& piece : pieces)
        if (!piece.empty()) shown.push_back(piece);
      same(shown, said["pieces"].get<std::vector<std::string>>(), said.dump());
    }
  }
}

std::vector<uint8_t> pixels(int width, int height, int channels, uint64_t seed) {
  std::vector<uint8_t> found;
  const uint64_t count = static_cast<uint64_t>(width) * static_cast<uint64_t>(height) * static_cast<uint64_t>(channels);
  for (uint64_t at = 0; at < count; ++at)
    found.push_back(static_cast<uint8_t>(at % 5 < 2 ? (at * 2654435761 + seed * 40503) >> 13 : at * 3 >> 4));
  return found;
}

template <class Number>
std::string hash(const std::vector<Number>& numbers) {
  return je::sha256(reinterpret_cast<const uint8_t*>(numbers.data()), numbers.size() * sizeof(Number));
}

void check_images(const json& given) {
  const auto image = [](const json& each) {
    return je::Image{each["width"], each["height"], pixels(each["width"], each["height"], 3, each["seed"])};
  };
  for (const json& each : given["resize"])
    same(hash(je::resize(image(each), each["to_width"], each["to_height"]).pixels), each["sha256"].get<std::string>(),
         "resize " + each.dump());
  for (const json& each : given["prepare"])
    same(hash(je::prepare(image(each), each["side"])), each["sha256"].get<std::string>(), "prepare " + each.dump());
  for (const json& each : given["rgb"]) {
    const int channels = each["channels"];
    const std::vector<uint8_t> raw = pixels(23, 9, channels, 40);
    same(hash(je::to_rgb({raw.data(), 23, 9, 23 * channels, channels}).pixels), each["sha256"].get<std::string>(),
         "rgb " + each.dump());
  }
  for (const json& each : given["upright"])
    same(hash(je::upright({6, 4, pixels(6, 4, 3, 41)}, each["orientation"]).pixels), each["sha256"].get<std::string>(),
         "upright " + each.dump());
  for (const json& each : given["to_pixels"])
    same(hash(je::to_image(each["values"].get<std::vector<float>>().data(), each["side"]).pixels),
         each["sha256"].get<std::string>(), "to_pixels");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string folder = argv[1];
  check_sampling(read(folder + "/sampling.json"));
  check_extremes(read(folder + "/sampling.json")["extreme"]);
  check_flow(read(folder + "/flow.json"));
  check_prompts(read(folder + "/prompts.json"), folder);
  check_utf8(read(folder + "/prompts.json")["utf8"]);
  check_images(read(folder + "/images.json"));
  check_decoding(read(folder + "/decoding.json"));
  check_formats(read(folder + "/images.json")["formats"]);
  std::cout << num_checked << " checked, " << num_wrong << " wrong\n";
  return num_wrong > 0;
}
