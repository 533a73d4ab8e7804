#include "contract.hpp"

#include <algorithm>
#include <set>

#include "error.hpp"
#include "kv_cache.hpp"
#include "limits.hpp"

namespace je {
namespace {

// A dimension of a shape: a size; a name, if the size varies; or "?name", a size that only the components know. The
// same
// "?name" stands for the same size everywhere.
using Shape = std::vector<Dimension>;

struct Ends {
  std::vector<TensorInfo> inputs, outputs;
};

Dimension dim(int64_t size) { return {"", size}; }
Dimension dim(const char* name) { return {name, 0}; }

template <class... Sizes>
Shape shape(const Sizes&... sizes) {
  return {dim(sizes)...};
}

TensorInfo floats_of(const char* name, Shape shape) { return {name, "float32", std::move(shape)}; }
TensorInfo integers_of(const char* name, Shape shape) { return {name, "int64", std::move(shape)}; }

class Contract {
 public:
  Contract(const Manifest& manifest, const std::string& file)
      : manifest_(manifest), sizes_(manifest.sizes), file_(file), tables_(table_shapes(manifest)), ends_(all_ends()) {}

  void check() {
    check_sizes();
    for (const auto& [name, part] : manifest_.components) check_component(name, part);
  }

 private:
  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    fail(JE_E_BUNDLE, file_, ": ", parts..., "; export the bundle again");
  }

  void check_sizes() const {
    const Sizes& s = sizes_;
    // no overflow: the product of the first three is at most 2^32, the fourth at most 2^20
    if (s.num_layers * s.num_kv_heads * s.head_dim > limits::kCached / s.max_length)
      wrong("sizes are too large: keys and values");
    const int64_t cells = manifest_.is_flow ? s.latent_size : s.code_grid;
    if (s.image_size % cells != 0)
      wrong("sizes do not fit together: image_size ", s.image_size, ", ", cells, " cells along it");
    if (manifest_.is_flow && s.latent_size % s.latent_grid != 0)
      wrong("sizes do not fit together: latent_size ", s.latent_size, " and latent_grid");
    if (s.num_drawn() >= s.max_length)
      wrong("sizes.max_length ", s.max_length, " has no room for an image's ", s.num_drawn());
  }

  void check_component(const std::string& name, const ComponentInfo& part) {
    const std::string at = "components." + name;
    const bool is_table = tables_.count(name) > 0;
    if (ends_.count(name) == 0) wrong(at, " is not known here");
    const std::string& expected = is_table ? "table" : manifest_.components.at("decoder").backend;
    if (part.backend != expected || (part.backend == "table") != is_table)
      wrong(at, ".backend is ", part.backend, "; tables are tables, all else is of one kind");
    if (!part.tensors.empty() && part.data.file.empty()) wrong(at, ".tensors are of no data");
    if (is_table && part.weights != "float32" && part.weights != "float16")
      wrong(at, ".weights are ", part.weights, "; a table's are float32 or float16");
    compare(at + ".inputs", part.inputs, ends_.at(name).inputs);
    compare(at + ".outputs", part.outputs, ends_.at(name).outputs);
    if (name == "decoder" || name == kPrefill) check_profile(at + ".profile", part.profile);
  }

  void check_profile(const std::string& at, const std::map<std::string, Range>& profile) const {
    const std::pair<const char*, int64_t> most[] = {
        {"R", limits::kRows}, {"T", sizes_.max_length}, {"M", sizes_.max_length}};
    for (const auto& [name, limit] : most) {
      if (profile.count(name) == 0) wrong(at, " has no ", name);
      if (profile.at(name).most > limit)
        wrong(at, ".", name, " goes to ", profile.at(name).most, ", more than ", limit);
    }
    if (profile.at("M").most != sizes_.max_length) wrong(at, ".M is not for max_length ", sizes_.max_length);
  }

  void compare(const std::string& at, const std::vector<TensorInfo>& found, const std::vector<TensorInfo>& wanted) {
    const auto has_name = [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; };
    if (!std::equal(found.begin(), found.end(), wanted.begin(), wanted.end(), has_name))
      wrong(at, " are not the ", wanted.size(), " that are needed");
    for (size_t i = 0; i < found.size(); ++i) {
      const auto fits = [&](const Dimension& a, const Dimension& b) { return is_same(a, b); };
      const Shape &has = found[i].shape, &needs = wanted[i].shape;
      if (found[i].dtype != wanted[i].dtype || !std::equal(has.begin(), has.end(), needs.begin(), needs.end(), fits))
        wrong(at, ".", found[i].name, " is not ", wanted[i].dtype, " of the shape that is needed");
    }
  }

  bool is_same(const Dimension& found, const Dimension& wanted) {
    if (wanted.name.empty()) return found.name.empty() && found.size == wanted.size;
    if (wanted.name[0] != '?') return !found.name.empty();
    return found.name.empty() && known_.emplace(wanted.name, found.size).first->second == found.size;
  }

  // Return the inputs and outputs that each component must have.
  std::map<std::string, Ends> all_ends() const {
    const int64_t width = sizes_.hidden_size, side = sizes_.image_size, seen = sizes_.num_image_tokens;
    const TensorInfo pixels = floats_of("pixels", shape("B", int64_t{3}, side, side));
    const TensorInfo features = floats_of("features", shape("B", seen, "?features"));
    const TensorInfo hidden = floats_of("hidden", shape("R", width));
    std::map<std::string, Ends> found = manifest_.is_flow ? of_flow(pixels) : of_codes(pixels, hidden);
    found["vision_encoder"] = {{pixels}, {features}};
    found["vision_aligner"] = {{features}, {floats_of("embeds", shape("B", seen, width))}};
    found["text_head"] = {{hidden}, {floats_of("logits", shape("R", sizes_.vocab_size))}};
    for (const auto& [name, table] : tables_)
      found[name] = {{integers_of("index", shape("R"))}, {floats_of("row", shape("R", table.width))}};
    found["decoder"] = found[kPrefill] = decoder();
    return found;
  }

  Ends decoder() const {
    const std::string& kind = manifest_.cache.dtype;
    const std::set<std::string> known = manifest_.components.at("decoder").backend == "tensorrt"
                                            ? std::set<std::string>{"float32", "float16", "bfloat16"}
                                            : std::set<std::string>{"float32", "float16", "int8"};
    const Dimension slots = manifest_.cache.shape[2].name.empty() ? dim(sizes_.max_length) : dim("M");
    const Shape cache{dim("R"), dim(sizes_.num_kv_heads), slots, dim(sizes_.head_dim)};
    const Shape width = shape("R", "T", sizes_.hidden_size);
    Ends found{
        {floats_of("embeds", width), integers_of("positions", shape("R", "T")), integers_of("lengths", shape("R"))},
        {floats_of("hidden", width)}};
    const std::string dtype = known.count(kind) > 0 ? kind : "a known type";
    for (const std::string& name : cache_names(kPast, sizes_.num_layers)) found.inputs.push_back({name, dtype, cache});
    for (const std::string& name : cache_names(kPresent, sizes_.num_layers))
      found.outputs.push_back({name, dtype, cache});
    return found;
  }

  std::map<std::string, Ends> of_codes(const TensorInfo& pixels, const TensorInfo& hidden) const {
    const TensorInfo codes = integers_of("codes", shape("B", sizes_.code_grid * sizes_.code_grid));
    return {{"image_head", {{hidden}, {floats_of("logits", shape("R", sizes_.codebook_size))}}},
            {"image_decoder", {{codes}, {pixels}}},
            {kPreviewDecoder, {{codes}, {pixels}}},
            {"image_encoder", {{pixels}, {codes}}}};
  }

  std::map<std::string, Ends> of_flow(const TensorInfo& pixels) const {
    const int64_t grid = sizes_.latent_grid, width = sizes_.hidden_size, size = sizes_.latent_size;
    const Shape tokens = shape("B", grid * grid, width), latent = shape("B", sizes_.latent_channels, size, size);
    const TensorInfo time = floats_of("time", shape("B", width));
    const TensorInfo skip = floats_of("skip", shape("B", "?skip", grid, grid));
    return {{"flow_encoder",
             {{floats_of("latent", latent), floats_of("t", shape("B"))}, {floats_of("tokens", tokens), time, skip}}},
            {"flow_decoder", {{floats_of("hidden", tokens), skip, time}, {floats_of("velocity", latent)}}},
            {"image_decoder", {{floats_of("latent", latent)}, {pixels}}},
            {kPreviewDecoder, {{floats_of("latent", latent)}, {pixels}}}};
  }

  const Manifest& manifest_;
  const Sizes& sizes_;
  const std::string& file_;
  std::map<std::string, TableShape> tables_;
  std::map<std::string, Ends> ends_;
  std::map<std::string, int64_t> known_;  // sizes that only the components know
};

}  // namespace

std::map<std::string, TableShape> table_shapes(const Manifest& manifest) {
  const Sizes& s = manifest.sizes;
  std::map<std::string, TableShape> found{{"text_embed", {s.vocab_size, s.hidden_size}}};
  if (!manifest.is_flow) found["code_embed"] = {s.codebook_size, s.hidden_size};
  found["preview"] = {manifest.is_flow ? s.latent_channels + 1 : s.codebook_size, 3};
  return found;
}

void check_contract(const Manifest& manifest, const std::string& file) { Contract(manifest, file).check(); }

}  // namespace je
