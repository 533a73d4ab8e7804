#include "manifest.hpp"

#include <algorithm>
#include <set>

#include "json_reader.hpp"
#include "kv_cache.hpp"
#include "limits.hpp"

namespace je {
namespace {

constexpr int64_t kMost = limits::kDimension;
constexpr double kTiny = 5e-324, kMostConstant = 2147483648.0;
constexpr int kDepth = 32;            // levels of nesting
constexpr size_t kLongestName = 255;  // characters of a file name

bool is_name(const std::string& text) {
  const auto is_plain = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  const auto is_part = [&](char c) { return is_plain(c) || c == '.' || c == '_' || c == '-'; };
  return !text.empty() && text.size() <= kLongestName && is_plain(text[0]) &&
         std::all_of(text.begin(), text.end(), is_part);
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

void check_axes(const ObjectReader& from, size_t count) {
  if (count > static_cast<size_t>(limits::kAxes)) from.wrong("shape", "has too many axes");
}

std::vector<TensorInfo> tensors_of(ObjectReader& from, const char* name) {
  std::vector<TensorInfo> found;
  from.each_of_list(name, [&](ObjectReader each) {
    TensorInfo tensor;
    tensor.name = each.identifier("name");
    tensor.dtype = each.word("dtype", {"float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8"});
    check_axes(each, each.list("shape").size());
    for (const auto& size : each.list("shape")) {
      if (size.is_string() && is_identifier(size.get<std::string>()))
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
  if (!from.has("tensors")) return found;
  from.each("tensors", [&](const std::string& name, ObjectReader each) {
    if (!is_identifier(name)) each.wrong("", "has no plain name");
    Stored stored;
    stored.dtype = each.word("dtype", {"float32", "int4_tiles", "int8_tiles", "int8_tiles_128"});
    stored.shape = each.integers("shape", 1, kMost);
    check_axes(each, stored.shape.size());
    stored.offset = static_cast<uint64_t>(each.integer("offset", 0, limits::kOffset));
    if (each.has("in_graph")) stored.is_in_graph = each.truth("in_graph");
    each.done();
    found.emplace(name, std::move(stored));
  });
  return found;
}

std::map<std::string, double> constants_of(ObjectReader from) {
  std::map<std::string, double> found;
  for (const std::string& key : from.keys()) {
    if (!is_identifier(key)) from.wrong(key, "has no plain name");
    found[key] = from.number(key.c_str(), 0, kMostConstant);
  }
  return found;
}

// Read (min, usual, max) of each named dimension.
std::map<std::string, Range> ranges_of(ObjectReader from) {
  std::map<std::string, Range> found;
  for (const std::string& key : from.keys()) {
    const std::vector<int64_t> range = from.integers(key.c_str(), 1, kMost);
    if (range.size() != 3 || !is_identifier(key)) from.wrong(key, "is no range");
    found[key] = {range[0], range[1], range[2]};
  }
  return found;
}

// Check the parts that only Python uses.
void check_engine(ObjectReader& from) {
  if (from.has("profiles"))
    from.each("profiles", [&](const std::string& name, ObjectReader each) {
      if (!is_identifier(name)) each.wrong("", "has no plain name");
      ranges_of(std::move(each));
    });
  if (!from.has_value("builder")) return;
  ObjectReader builder = from.object("builder");
  builder.word("module", {"tensorrt_rtx", "tensorrt"});
  builder.shown("version", 1, limits::kWord);
  builder.done();
}

ComponentInfo component_of(ObjectReader from) {
  ComponentInfo found;
  found.file = file_of(from);
  if (from.has_value("data")) found.data = lone_file(from.object("data"));
  found.backend = from.word("backend", {"onnxruntime", "tensorrt", "table"});
  found.target = from.shown("target", 1, limits::kWord);
  from.word("dtype", {"float32", "float16", "bfloat16"});
  found.weights = from.word("weights", {"float32", "float16", "int8", "int4"});
  found.upcasts_on_use = from.has("upcast") && from.word("upcast", {"load", "use"}) == "use";
  from.word("quantization", {"none", "per-channel", "blocks of 32", "blocks of 64", "blocks of 128"});
  found.inputs = tensors_of(from, "inputs");
  found.outputs = tensors_of(from, "outputs");
  if (from.has("profile")) found.profile = ranges_of(from.object("profile"));
  found.tensors = stored_of(from);
  if (from.has("constants")) found.constants = constants_of(from.object("constants"));
  check_engine(from);
  from.done();
  return found;
}

KernelInfo kernel_of(ObjectReader from) {
  KernelInfo found;
  found.file = file_of(from);
  found.name = from.identifier("name");
  found.symbol = from.identifier("symbol");
  found.target = from.text("target");
  const std::string number = found.target.substr(std::min<size_t>(3, found.target.size()));
  const bool is_number = number.find_first_not_of("0123456789") == std::string::npos;
  if (found.target.rfind("sm_", 0) != 0 || number.size() < 2 || number.size() > 3 || !is_number)
    from.wrong("target", "is no compute capability");
  found.threads = from.integer("threads", 1, 1024);
  found.shared_bytes = from.integer("shared_bytes", 0, limits::kMiB);
  for (const auto& each : from.list("arguments"))
    found.arguments.push_back(from.shown("arguments", each, 1, limits::kWord));
  ObjectReader constants = from.object("constants");
  for (const std::string& key : constants.keys()) {
    if (!is_identifier(key)) constants.wrong(key, "has no plain name");
    found.constants[key] = constants.value(key.c_str()).is_boolean()
                               ? constants.truth(key.c_str())
                               : constants.integer(key.c_str(), INT64_MIN, INT64_MAX);
  }
  from.done();
  return found;
}

Sizes sizes_of(ObjectReader from, bool is_flow) {
  Sizes found{};
  const auto size = [&](const char* name, int64_t most) { return from.integer(name, 1, most); };
  found.hidden_size = size("hidden_size", limits::kHiddenSize);
  found.vocab_size = size("vocab_size", limits::kVocabSize);
  found.num_layers = size("num_layers", limits::kNumLayers);
  found.num_kv_heads = size("num_kv_heads", limits::kNumKvHeads);
  found.head_dim = size("head_dim", limits::kHeadDim);
  if (from.has("norm_epsilon")) found.norm_epsilon = from.number("norm_epsilon", kTiny, 1);
  found.max_length = size("max_length", limits::kMaxLength);
  found.image_size = size("image_size", limits::kImageSize);
  found.num_image_tokens = size("num_image_tokens", limits::kNumImageTokens);
  if (is_flow) {
    found.latent_channels = size("latent_channels", limits::kLatentChannels);
    found.latent_size = size("latent_size", limits::kLatentSize);
    found.latent_grid = size("latent_grid", limits::kLatentGrid);
  } else {
    found.code_grid = size("code_grid", limits::kCodeGrid);
    found.codebook_size = size("codebook_size", limits::kCodebookSize);
  }
  from.done();
  return found;
}

// The ranges are the same as those of a request (request.cpp).
Sampling sampling_of(ObjectReader from, bool is_flow) {
  Sampling found;
  found.guidance_scale = from.number("guidance_scale", 0, 100);
  const auto optional = [&](const char* name, double least, double most, double& value) {
    if (from.has(name)) value = from.number(name, least, most);
  };
  if (is_flow) {
    found.num_steps = from.integer("num_steps", 1, 10000);
    found.solver = from.word("solver", {"euler", "ab2", "heun"});
    optional("shift", 0.01, 100, found.shift);
    optional("guidance_start", 0, 1, found.guidance_start);
    optional("guidance_end", 0, 1, found.guidance_end);
  } else {
    found.temperature = from.number("temperature", 0, 100);
    if (from.has("top_k")) found.top_k = from.integer("top_k", 0, int64_t{1} << 31);
    optional("top_p", 1e-6, 1, found.top_p);
  }
  from.done();
  return found;
}

// What a bundle of each family must hold.
constexpr const char* kShared[] = {"vision_encoder", "vision_aligner", "text_embed", "decoder",
                                   "text_head",      "image_decoder",  "preview"};
constexpr const char* kJanus[] = {"image_head", "code_embed"};
constexpr const char* kFlow[] = {"flow_encoder", "flow_decoder"};

void check_components(const Manifest& manifest, const ObjectReader& from) {
  const auto check = [&](const char* name) {
    if (manifest.components.count(name) == 0) from.wrong(join("components.", name), "is missing");
  };
  for (const char* name : kShared) check(name);
  for (const char* name : manifest.is_flow ? kFlow : kJanus) check(name);
}

TensorInfo cache_of(const Manifest& manifest, const ObjectReader& from) {
  TensorInfo first;
  for (const TensorInfo& each : manifest.components.at("decoder").inputs) {
    if (each.name.rfind(kPast, 0) != 0) continue;
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

namespace {

// Refuse what the JSON library would accept: it takes a zero byte for the end of the file, skips a byte order mark, and
// uses the last of two equal keys. Values nested deeper than kDepth are not kept.
nlohmann::json parsed(std::string_view text, const std::string& file) {
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> open;
  bool is_deep = false;
  bool has_twins = text.find('\0') != std::string_view::npos || text.substr(0, 3) == "\xEF\xBB\xBF";
  const auto look = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key) has_twins |= !open.back().insert(value.get<std::string>()).second;
    is_deep |= depth > kDepth;
    return depth <= kDepth;
  };
  try {
    Json found = Json::parse(text.begin(), text.end(), look);
    if (!has_twins && !is_deep) return found;
  } catch (const Json::exception&) {
  }
  fail(JE_E_BUNDLE, file, ": is no JSON, or a key stands there twice; export the bundle again");
}

void check_format(int64_t format, const std::string& file) {
  if (format == kFormat) return;
  fail(JE_E_BUNDLE, file, ": format ", format, ", but this version reads format ", kFormat,
       format < kFormat ? "; run: janus-edge export CHECKPOINT BUNDLE --replace" : "; update janus-edge");
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string& file) {
  const Tree tree(parsed(text, file));
  ObjectReader from(tree.root, file, "");
  Manifest found;
  check_format(from.integer("format", 0, INT32_MAX), file);
  found.is_flow = from.word("family", {"janus", "janusflow"}) == "janusflow";
  found.name = from.shown("name", 1, limits::kWord);
  found.created_by = from.shown("created_by", 1, limits::kWord);
  if (from.has_value("source")) from.shown("source", 1, limits::kWord);  // for people
  found.sizes = sizes_of(from.object("sizes"), found.is_flow);
  ObjectReader prompt = from.object("prompt");
  found.prompt = {prompt.text_to("user_role", limits::kRole), prompt.text_to("assistant_role", limits::kRole),
                  prompt.text_to("system_prompt", limits::kPrompt)};
  prompt.done();
  found.sampling = sampling_of(from.object("sampling"), found.is_flow);
  found.tokenizer = lone_file(from.object("tokenizer"));
  if (from.has_value("tokenizer_bin")) found.tokenizer_bin = lone_file(from.object("tokenizer_bin"));
  from.each("components", [&](const std::string& name, ObjectReader each) {
    found.components.emplace(name, component_of(std::move(each)));
  });
  if (from.has("kernels"))
    from.each_of_list("kernels", [&](ObjectReader each) { found.kernels.push_back(kernel_of(std::move(each))); });
  from.done();
  check_components(found, from);
  found.cache = cache_of(found, from);
  return found;
}

}  // namespace je
