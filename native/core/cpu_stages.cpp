// Heads, the vision parts and the image decoder by the CPU kernels. Mirrors runtime/backends/cpu_head.py and
// cpu_images.py.
#include <algorithm>
#include <functional>

#include "cpu_kernels.hpp"
#include "cpu_weights.hpp"
#include "error.hpp"

namespace je {
namespace {

// Matmuls, in the file's order, with GELUs between.
struct Chain {
  Weights weights;
  std::vector<je_matrix> layers;

  Chain(const Bundle& bundle, const std::string& name, int64_t inputs, int64_t outputs)
      : weights(bundle, bundle.component(name)) {
    weights.require(inputs > 0);  // 0 would be any number
    for (const std::string& layer : weights.chain()) {
      layers.push_back(weights.matrix(layer, kWideBits, inputs));
      inputs = layers.back().outputs;
    }
    if (layers.empty() || inputs != outputs)
      fail(JE_E_BUNDLE, bundle.path(bundle.component(name)), ": gives ", inputs, " numbers, not ", outputs,
           "; export the bundle again");
  }

  void run(Pool& pool, const std::string& name, const float* given, int64_t rows, float* made,
           const Cancel& cancel) const {
    const PoolTurn turn(pool);
    cancel.check();
    if (je_head_run(pool.get(), layers.data(), static_cast<int32_t>(layers.size()), static_cast<int32_t>(rows), given,
                    made) != 0)
      fail(JE_E_MEMORY, "no memory for ", rows, " rows of a head");
    if (!are_finite(made, static_cast<size_t>(rows * layers.back().outputs)))
      fail(JE_E_BUNDLE, name, " computes what is no finite number; export the bundle again");
  }
};

// What the C library opened, and what it must not outlive. Kind: je_encoder or je_image_decoder.
template <class Kind>
struct Opened {
  Weights weights;
  std::shared_ptr<Pool> pool;
  std::unique_ptr<Kind, void (*)(Kind*)> part;
  int64_t size = 0;  // of an output, in numbers
  std::vector<float> codebook;

  Opened(const Bundle& bundle, const std::string& name, std::shared_ptr<Pool> given, void (*close)(Kind*))
      : weights(bundle, bundle.component(name)), pool(std::move(given)), part(nullptr, close) {}

  // Open the part. Throws Error, as Lookup::check does.
  template <class Sizes>
  void open(int (*function)(Sizes, const je_weights*, je_pool*, Kind**), const Sizes& sizes) {
    const Lookup lookup(weights);
    Kind* found = nullptr;
    const int opened = function(sizes, lookup.get(), pool->get(), &found);
    part.reset(found);
    lookup.check(opened);
  }

  // Run one image. Throws Error.
  void run(int (*function)(Kind*, const float*, float*, const int*), const char* name, const float* given, float* made,
           const Cancel& cancel) const {
    const PoolTurn turn(*pool);
    cancel.check();
    const int failed = function(part.get(), given, made, cancel.flag());
    if (failed > 0) throw Cancelled();
    if (failed < 0) fail(JE_E_MEMORY, "no memory for an image");
    if (!are_finite(made, static_cast<size_t>(size)))
      fail(JE_E_BUNDLE, name, " computes what is no finite number; export the bundle again");
  }
};

int32_t whole(double constant) { return static_cast<int32_t>(std::min(constant, 1e9)); }

Stage encoder_stage(const Bundle& bundle, std::shared_ptr<Pool> pool) {
  auto opened = std::make_shared<Opened<je_encoder>>(bundle, "vision_encoder", std::move(pool), je_encoder_close);
  const Weights& weights = opened->weights;
  const je_encoder_sizes sizes{static_cast<int32_t>(bundle.manifest.sizes.image_size),
                               whole(weights.constant("patch_size")), whole(weights.constant("heads")),
                               static_cast<float>(weights.constant("epsilon"))};
  opened->open(je_encoder_open, sizes);
  const int64_t patches = je_encoder_num_patches(opened->part.get()), width = je_encoder_width(opened->part.get());
  const TensorInfo* made = bundle.component("vision_encoder").output("features");
  weights.require(made != nullptr && made->shape.size() == 3 && made->shape[1].size == patches &&
                  made->shape[2].size == width);
  opened->size = patches * width;
  return [opened](const Tensor& given, const Tensor& to, const Cancel& cancel) {
    opened->run(je_encoder_run, "vision_encoder", static_cast<const float*>(given.data),
                static_cast<float*>(const_cast<void*>(to.data)), cancel);
  };
}

// The vectors of an image's cells, from what the image decoder is given. cells (N, E).
using Cells = std::function<std::vector<float>(const void* given)>;

// Codes (N) to their vectors.
Cells code_cells(const Weights& weights, const Sizes& sizes, int64_t channels) {
  const float* codebook = weights.floats("codebook", {sizes.codebook_size, channels});
  const int64_t cells = sizes.code_grid * sizes.code_grid, codes = sizes.codebook_size;
  return [codebook, channels, cells, codes](const void* given) {
    const auto* chosen = static_cast<const int64_t*>(given);
    std::vector<float> vectors;
    for (int64_t cell = 0; cell < cells; ++cell) {
      if (chosen[cell] < 0 || chosen[cell] >= codes) fail(JE_E_BUNDLE, "no code ", chosen[cell], " of ", codes);
      vectors.insert(vectors.end(), codebook + chosen[cell] * channels, codebook + (chosen[cell] + 1) * channels);
    }
    return vectors;
  };
}

// A latent (E, h, w), transposed.
Cells latent_cells(const Sizes& sizes) {
  const auto cells = static_cast<size_t>(sizes.latent_size * sizes.latent_size);
  const auto channels = static_cast<size_t>(sizes.latent_channels);
  return [cells, channels](const void* given) {
    const auto* latent = static_cast<const float*>(given);
    std::vector<float> vectors(cells * channels);
    for (size_t cell = 0; cell < cells; ++cell)
      for (size_t c = 0; c < channels; ++c) vectors[cell * channels + c] = latent[c * cells + cell];
    return vectors;
  };
}

Stage image_decoder_stage(const Bundle& bundle, std::shared_ptr<Pool> pool) {
  auto opened =
      std::make_shared<Opened<je_image_decoder>>(bundle, "image_decoder", std::move(pool), je_image_decoder_close);
  const Weights& weights = opened->weights;
  const Sizes& known = bundle.manifest.sizes;
  const bool has_codes = known.codebook_size > 0;
  const int64_t channels = has_codes ? weights.count("codebook") / known.codebook_size : known.latent_channels;
  const Cells cells = has_codes ? code_cells(weights, known, channels) : latent_cells(known);
  const je_image_decoder_sizes sizes{static_cast<int32_t>(channels),
                                     static_cast<int32_t>(has_codes ? known.code_grid : known.latent_size),
                                     whole(weights.constant("groups"))};
  opened->open(je_image_decoder_open, sizes);
  weights.require(je_image_decoder_image_size(opened->part.get()) == known.image_size);
  opened->size = 3 * known.image_size * known.image_size;
  return [opened, cells](const Tensor& given, const Tensor& to, const Cancel& cancel) {
    opened->run(je_image_decoder_run, "image_decoder", cells(given.data).data(),
                static_cast<float*>(const_cast<void*>(to.data)), cancel);
  };
}

}  // namespace

Head cpu_head(const Bundle& bundle, const std::string& name, std::shared_ptr<Pool> pool) {
  const Sizes& sizes = bundle.manifest.sizes;
  auto chain = std::make_shared<Chain>(bundle, name, sizes.hidden_size,
                                       name == "image_head" ? sizes.codebook_size : sizes.vocab_size);
  return [chain, name, pool = std::move(pool)](const float* hidden, int64_t rows, float* logits, const Cancel& cancel) {
    chain->run(*pool, name, hidden, rows, logits, cancel);
  };
}

Stage cpu_stage(const Bundle& bundle, const std::string& name, std::shared_ptr<Pool> pool) {
  if (name == "vision_encoder") return encoder_stage(bundle, std::move(pool));
  if (name == "image_decoder") return image_decoder_stage(bundle, std::move(pool));
  const Sizes& sizes = bundle.manifest.sizes;
  const TensorInfo* features = bundle.component("vision_encoder").output("features");
  const int64_t inputs = features != nullptr && features->shape.size() == 3 ? features->shape[2].size : 0;
  auto chain = std::make_shared<Chain>(bundle, name, inputs, sizes.hidden_size);
  return [chain, name, rows = sizes.num_image_tokens, pool = std::move(pool)](const Tensor& given, const Tensor& to,
                                                                              const Cancel& cancel) {
    chain->run(*pool, name, static_cast<const float*>(given.data), rows,
               static_cast<float*>(const_cast<void*>(to.data)), cancel);
  };
}

}  // namespace je
