#include "manifest.hpp"

#include <algorithm>
#include <limits>

#include "json_reader.hpp"

namespace je {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();  // of any size
constexpr double kInfinite = std::numeric_limits<double>::infinity(), kTiny = 5e-324;
constexpr int64_t kLargest = int64_t{1} << 40;  // of products of sizes: what memory could hold

bool is_name(const std::string& text) {
  const auto is_plain = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  const auto is_part = [&](char c) { return is_plain(c) || c == '.' || c == '_' || c == '-'; };
  return !text.empty() && is_plain(text[0]) && std::all_of(text.begin(), text.end(), is_part);
}

FileInfo file_of(ObjectReader& from) {
  FileInfo found{from.text("file"), from.text("sha256")};
  if (!is_name(found.file)) from.wrong("file", "is no plain file name");
  const bool is_hex = found.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (found.sha256.size() != 64 || !is_hex) from.wrong("sha256", "is no SHA-256");
  return found;
}

FileInfo lone_file(ObjectReader from) {
  const FileInfo found = file_of(from);
  from.done();
  return found;
}

std::vector<TensorInfo> tensors_of(ObjectReader& from, const char* name) {
  std::vector<TensorInfo> found;
  from.each_of_list(name, [&](ObjectReader each) {
    TensorInfo tensor;
    tensor.name = each.text("name");
    tensor.dtype = each.word("dtype", {"float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8"});
    for (const auto& size : each.list("shape")) {
      if (size.is_string())
        tensor.shape.push_back({size.get<std::string>(), 0});
      else if (size.is_number_unsigned() && size.get<uint64_t>() - 1 < uint64_t{kMost})
        tensor.shape.push_back({"", size.get<int64_t>()});
      else
        each.wrong("shape", "is out of range");
    }
    each.done();
    found.push_back(std::move(tensor));
  });
  return found;
}

std::map<std::string, Stored> stored_of(ObjectReader& from) {
  std::map<std::string, Stored> found;
  if (from.has("tensors"))
    from.each("tensors", [&](const std::string& name, ObjectReader each) {
      Stored stored;
      stored.dtype = each.word("dtype", {"float32", "uint8"});
      stored.shape = each.integers("shape", 1, kMost);
      stored.offset = static_cast<uint64_t>(each.integer("offset", 0, INT64_MAX));
      each.done();
      found.emplace(name, std::move(stored));
    });
  return found;
}

// (min, usual, max) of each named dimension; of R the max is kept.
int64_t most_rows(ObjectReader& from) {
  int64_t most = 0;
  if (!from.has("profile")) return most;
  ObjectReader profile = from.object("profile");
  for (const auto& [key, inner] : from.value("profile").items()) {
    const std::vector<int64_t> range = profile.integers(key.c_str(), 1, kMost);
    if (range.size() != 3) profile.wrong(key, "is no range");
    if (key == "R") most = range[2];
  }
  return most;
}

ComponentInfo component_of(ObjectReader from) {
  ComponentInfo found;
  found.file = file_of(from);
  if (from.has("data")) found.data = lone_file(from.object("data"));
  found.backend = from.word("backend", {"onnxruntime", "tensorrt", "table"});
  found.target = from.text("target");
  from.word("dtype", {"float32", "float16", "bfloat16"});
  found.weights = from.word("weights", {"float32", "float16", "int8", "int4"});
  found.upcasts_on_use = from.has("upcast") && from.word("upcast", {"load", "use"}) == "use";
  from.word("quantization", {"none", "outputs", "blocks of 32", "blocks of 64", "blocks of 128"});
  found.inputs = tensors_of(from, "inputs");
  found.outputs = tensors_of(from, "outputs");
  found.most_rows = most_rows(from);
  found.tensors = stored_of(from);
  for (const char* of_engines : {"profiles", "builder"}) from.has(of_engines);  // which Python runs
  from.done();
  return found;
}

Sizes sizes_of(ObjectReader from, bool is_flow) {
  Sizes found{};
  const auto positive = [&](const char* name) { return from.integer(name, 1, kMost); };
  found.hidden_size = positive("hidden_size");
  found.vocab_size = positive("vocab_size");
  found.num_layers = positive("num_layers");
  found.num_kv_heads = positive("num_kv_heads");
  found.head_dim = positive("head_dim");
  if (from.has("norm_epsilon")) found.norm_epsilon = from.number("norm_epsilon", kTiny, kInfinite);
  found.max_length = positive("max_length");
  found.image_size = positive("image_size");
  found.num_image_tokens = positive("num_image_tokens");
  if (is_flow) {
    found.latent_channels = positive("latent_channels");
    found.latent_size = positive("latent_size");
    found.latent_grid = positive("latent_grid");
  } else {
    found.code_grid = positive("code_grid");
    found.codebook_size = positive("codebook_size");
  }
  from.done();
  return found;
}

// No product that the loops make of sizes may overflow, or be more than memory could hold.
void check_products(const Sizes& sizes, const ObjectReader& from) {
  const auto fits = [](std::initializer_list<int64_t> factors) {
    double product = 1;
    for (const int64_t each : factors) product *= static_cast<double>(each);
    return product < static_cast<double>(kLargest);
  };
  const bool fit = fits({sizes.max_length, sizes.hidden_size}) && fits({sizes.image_size, sizes.image_size, 3}) &&
                   fits({sizes.num_layers, sizes.num_kv_heads, sizes.head_dim, sizes.max_length}) &&
                   fits({sizes.num_image_tokens, sizes.hidden_size}) && fits({sizes.code_grid, sizes.code_grid}) &&
                   fits({sizes.latent_grid, sizes.latent_grid}) &&
                   fits({sizes.latent_channels, sizes.latent_size, sizes.latent_size});
  if (!fit) from.wrong("sizes", "are too large");
  const int64_t grid = sizes.code_grid + sizes.latent_size;  // of one of them
  if (sizes.image_size % grid != 0) from.wrong("sizes", "do not fit together");
}

Sampling sampling_of(ObjectReader from, bool is_flow) {
  Sampling found;
  found.guidance_scale = from.number("guidance_scale", 0, kInfinite);
  const auto optional = [&](const char* name, double least, double most, double& value) {
    if (from.has(name)) value = from.number(name, least, most);
  };
  if (is_flow) {
    found.num_steps = from.integer("num_steps", 1, kMost);
    found.solver = from.word("solver", {"euler", "ab2", "heun"});
    optional("shift", kTiny, kInfinite, found.shift);
    optional("guidance_start", 0, 1, found.guidance_start);
    optional("guidance_end", 0, 1, found.guidance_end);
  } else {
    found.temperature = from.number("temperature", 0, kInfinite);
    if (from.has("top_k")) found.top_k = from.integer("top_k", 0, kMost);
    optional("top_p", kTiny, 1, found.top_p);
  }
  from.done();
  return found;
}

// What a bundle of each family must hold.
constexpr const char* kShared[] = {"vision_encoder", "vision_aligner", "text_embed", "decoder",
                                   "text_head",      "image_decoder",  "preview"};
constexpr const char* kJanus[] = {"image_head", "code_embed", "image_encoder"};
constexpr const char* kFlow[] = {"flow_encoder", "flow_decoder"};

void check_components(const Manifest& manifest, const ObjectReader& from) {
  const auto check = [&](const char* name) {
    if (manifest.components.count(name) == 0) from.wrong(join("components.", name), "is missing");
  };
  for (const char* name : kShared) check(name);
  if (manifest.is_flow)
    for (const char* name : kFlow) check(name);
  else
    for (const char* name : kJanus) check(name);
}

TensorInfo cache_of(const Manifest& manifest, const ObjectReader& from) {
  TensorInfo first;
  for (const TensorInfo& each : manifest.components.at("decoder").inputs) {
    if (each.name.rfind("past_", 0) != 0) continue;
    if (each.shape.size() != 4) from.wrong("components.decoder.inputs", "have no cache");
    if (first.name.empty()) first = each;
  }
  if (first.name.empty()) from.wrong("components.decoder.inputs", "have no cache");
  return first;
}

}  // namespace

const TensorInfo* ComponentInfo::output(std::string_view name) const {
  for (const TensorInfo& each : outputs)
    if (each.name == name) return &each;
  return nullptr;
}

const ComponentInfo& Manifest::component(const std::string& wanted, const std::string& file) const {
  const auto found = components.find(wanted);
  if (found == components.end()) fail(JE_E_BUNDLE, file, ": no component ", wanted, "; export the bundle again");
  return found->second;
}

Sampling reference_sampling(bool is_flow) {
  Sampling found;
  found.guidance_scale = is_flow ? 2 : 5;
  found.temperature = 1;
  found.num_steps = 30;
  found.solver = "euler";
  return found;
}

Manifest parse_manifest(std::string_view text, const std::string& file) {
  nlohmann::json parsed;
  try {
    parsed = nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception&) {
    fail(JE_E_BUNDLE, file, ": is no JSON; export the bundle again");
  }
  ObjectReader from(parsed, file, "");
  Manifest found;
  from.integer("format", 1, 1);
  found.is_flow = from.word("family", {"janus", "janusflow"}) == "janusflow";
  found.name = from.text("name");
  found.created_by = from.text("created_by");
  found.sizes = sizes_of(from.object("sizes"), found.is_flow);
  check_products(found.sizes, from);
  ObjectReader prompt = from.object("prompt");
  found.prompt = {prompt.text("user_role"), prompt.text("assistant_role"), prompt.text("system_prompt")};
  prompt.done();
  found.sampling = sampling_of(from.object("sampling"), found.is_flow);
  ObjectReader specials = from.object("special_tokens");
  for (const auto& [key, inner] : from.value("special_tokens").items()) specials.text(key.c_str());
  found.tokenizer = lone_file(from.object("tokenizer"));
  if (from.has("tokenizer_bin")) found.tokenizer_bin = lone_file(from.object("tokenizer_bin"));
  from.each("components", [&](const std::string& name, ObjectReader each) {
    found.components.emplace(name, component_of(std::move(each)));
  });
  if (from.has("kernels"))
    from.each_of_list("kernels", [&](ObjectReader each) { found.kernels.push_back(file_of(each)); });
  from.done();
  check_components(found, from);
  found.cache = cache_of(found, from);
  return found;
}

}  // namespace je
