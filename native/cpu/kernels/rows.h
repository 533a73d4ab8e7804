/* Rows of activations: norms, sums and scales of channels, and quantization in blocks. */

#define MOMENT_VECTORS 4 /* of 16 channels, whose moments are computed together */

/* Quantize a block with the scale 1 / inverse. Return the sum of the quantized values. */
static int32_t quantize_block(int8_t* quantized, const float* x, int block, float inverse) {
  je_ints sum = i_all(0);
  for (int i = 0; i < block; i += 16) {
    const je_ints rounded = i_rounded(f_mul(f_load(x + i), f_all(inverse)));
    i_store_bytes(quantized + i, rounded);
    sum = i_add(sum, rounded);
  }
  return i_sum(sum);
}

static void quantize_row(const je_rows* rows, int row, const float* x, int inputs) {
  const int block = rows->block;
  float last[JE_MAX_BLOCK] = {0};
  for (int b = 0; b < rows->blocks; b++, x += block) {
    const size_t at = (size_t)b * rows->count + row;
    const int remaining = inputs - b * block;
    if (remaining < block) x = memcpy(last, x, (size_t)remaining * sizeof(float));
    je_floats magnitudes = f_all(1e-12f);
    for (int i = 0; i < block; i += 16) magnitudes = f_max(magnitudes, f_abs(f_load(x + i)));
    const float peak = largest_of(magnitudes);
    rows->sums[at] = quantize_block(rows->quantized + at * block, x, block, 127 / peak);
    rows->scales[at] = peak / 127;
  }
}

static void norm(float* y, const float* x, const float* weight, int width, float epsilon) {
  const int whole = width / 16 * 16, rest = width - whole;
  float x_rest[16] = {0}, weight_rest[16] = {0}, y_rest[16];
  memcpy(x_rest, x + whole, (size_t)rest * sizeof(float));
  memcpy(weight_rest, weight + whole, (size_t)rest * sizeof(float));
  je_floats sum = f_all(0);
  for (int i = 0; i < whole; i += 16) sum = f_fma(f_load(x + i), f_load(x + i), sum);
  sum = f_fma(f_load(x_rest), f_load(x_rest), sum);
  const je_floats factor = f_all(1 / sqrtf(sum_of(sum) / (float)width + epsilon));
  for (int i = 0; i < whole; i += 16) f_store(y + i, f_mul(f_mul(f_load(x + i), factor), f_load(weight + i)));
  f_store(y_rest, f_mul(f_mul(f_load(x_rest), factor), f_load(weight_rest)));
  memcpy(y + whole, y_rest, (size_t)rest * sizeof(float));
}

static void layer_norm(float* y, const float* x, const float* weight, const float* bias, int width, float epsilon) {
  je_floats sum = f_all(0), squares = f_all(0);
  for (int i = 0; i < width; i += 16) sum = f_add(sum, f_load(x + i));
  const je_floats mean = f_all(sum_of(sum) / (float)width);
  for (int i = 0; i < width; i += 16) {
    const je_floats rest = f_sub(f_load(x + i), mean);
    squares = f_fma(rest, rest, squares);
  }
  const je_floats factor = f_all(1 / sqrtf(sum_of(squares) / (float)width + epsilon));
  for (int i = 0; i < width; i += 16)
    f_store(y + i, f_fma(f_mul(f_sub(f_load(x + i), mean), factor), f_load(weight + i), f_load(bias + i)));
}

/* Add the moments of `vectors` times 16 channels, whose sums stay in registers. */
JE_INLINE void add_some_moments(float* sums, float* squares, const float* x, int pixels, int channels,
                                const int vectors) {
  je_floats sum[MOMENT_VECTORS], square[MOMENT_VECTORS];
  UNROLLED_4 for (int i = 0; i < vectors; i++) {
    sum[i] = f_load(sums + 16 * i);
    square[i] = f_load(squares + 16 * i);
  }
  for (int pixel = 0; pixel < pixels; pixel++, x += channels) UNROLLED_4 for (int i = 0; i < vectors; i++) {
    const je_floats value = f_load(x + 16 * i);
    sum[i] = f_add(sum[i], value);
    square[i] = f_fma(value, value, square[i]);
  }
  UNROLLED_4 for (int i = 0; i < vectors; i++) {
    f_store(sums + 16 * i, sum[i]);
    f_store(squares + 16 * i, square[i]);
  }
}

static void add_moments(float* sums, const float* x, int pixels, int channels) {
  int c = 0;
  for (; c + 16 * MOMENT_VECTORS <= channels; c += 16 * MOMENT_VECTORS)
    add_some_moments(sums + c, sums + channels + c, x + c, pixels, channels, MOMENT_VECTORS);
  for (; c < channels; c += 16) add_some_moments(sums + c, sums + channels + c, x + c, pixels, channels, 1);
}

static void scale_channels(float* y, const float* x, const float* scale, const float* shift, int channels,
                           int has_silu) {
  for (int c = 0; c < channels; c += 16) {
    const je_floats scaled = f_fma(f_load(x + c), f_load(scale + c), f_load(shift + c));
    f_store(y + c, has_silu ? je_silu(scaled) : scaled);
  }
}
