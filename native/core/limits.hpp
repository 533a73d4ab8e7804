// The largest sizes in a bundle. The same as in runtime/limits.py; listed in docs/bundle.md.
#pragma once

#include <cstdint>

namespace je::limits {

constexpr int64_t kMiB = int64_t{1} << 20;

// Sizes of files, in bytes.
constexpr int64_t kManifestBytes = 4 * kMiB, kChecksumBytes = 1024;
constexpr int64_t kTokenizerBytes = 64 * kMiB, kTokenizerBinBytes = 64 * kMiB;
constexpr int64_t kKernelBytes = 64 * kMiB;
constexpr int64_t kComponentBytes = int64_t{1} << 38;
constexpr int64_t kNoteBytes = kMiB;

// Sizes that the manifest names.
constexpr int64_t kHiddenSize = 1 << 16, kVocabSize = 1 << 22, kNumLayers = 1 << 10, kNumKvHeads = 1 << 10;
constexpr int64_t kHeadDim = 1 << 12, kMaxLength = 1 << 20, kImageSize = 1 << 13, kNumImageTokens = 1 << 16;
constexpr int64_t kCodeGrid = 1 << 10, kCodebookSize = 1 << 20;
constexpr int64_t kLatentChannels = 1 << 10, kLatentSize = 1 << 12, kLatentGrid = 1 << 10;
constexpr int64_t kCached = int64_t{1} << 40;  // num_layers * num_kv_heads * head_dim * max_length

constexpr int64_t kRows = 1 << 10;             // rows R of the decoder's profile
constexpr int64_t kDimension = 0x7FFFFFFF;     // a dimension of any other shape or range
constexpr int64_t kAxes = 8;                   // axes of a shape
constexpr int64_t kOffset = int64_t{1} << 40;  // offset of a weight in a component's data, in bytes
constexpr int64_t kWord = 256;                 // a name, in characters
constexpr int64_t kRole = 4096;                // a role of the prompt, in characters
constexpr int64_t kPrompt = 1 << 16;           // the system prompt, in characters
constexpr int64_t kWholeTable = 16 * kMiB;     // tables up to this size are read and checked at open

}  // namespace je::limits
