// Products with stored matrices on the CPU: y = W x for one or many activation rows, weights
// decoded in registers (where the codec has a kernel) or a few rows at a time.
//
// One numeric path: an output element y[t, r] depends on W's row r and x's row t alone. It is the
// same sum in the same order for one activation row or many, for any split of rows among threads,
// and for every SIMD target:
//  - integer form (matrices whose values are scale * int8 + offset): activations are quantized to
//    int8 with one fp32 scale per block. Columns are taken in steps of 64 and groups of 4 steps
//    (256 columns); lane l of 16 has columns 4l..4l+3 of each step, and a block is what one lane
//    has in one group: 16 columns. Products accumulate exactly in int32 within a block; the 16 fp32
//    lanes accumulate scale * (block sum) over the groups in ascending order by FMA and are added
//    by a fixed tree (l + 8, l + 4, l + 2, l + 1) at the end.
//    Blocks stride over the group so that four steps share one conversion to float.
//  - float form (source weights F32/F16/BF16, codebooks of fp16 or range levels, codecs without a
//    kernel): lane l accumulates columns c = l mod 16, ascending, by FMA; the same tree adds the
//    lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/codec/codec.h"
#include "kernels/cpu/aligned.h"

namespace quantloom::cpu {

// A batch of activation rows prepared once for all products that read it (q/k/v share one; gate/up
// share one). Not thread-safe while being assigned; read-only use from several threads is fine.
// Memory is kept between assignments.
class Activations {
 public:
  static constexpr size_t kStepCols = 64;    // columns of one step of the integer form
  static constexpr size_t kGroupCols = 256;  // columns whose products share int32 accumulators

  // Takes a copy of x [tokens, cols] (row stride `stride` floats) and, when `quantize`, its int8
  // form. A block with an infinite or NaN value gets a NaN scale: its products are NaN.
  // The same as Resize, then SetRow of every row.
  void Assign(const float* x, size_t tokens, size_t cols, size_t stride, bool quantize);

  // In two steps, for preparing many rows from several threads: Resize makes room (contents are
  // then unspecified); SetRow, on distinct rows from any threads, takes a copy of one row's cols()
  // values, and its int8 form when Resize was told to.
  void Resize(size_t tokens, size_t cols, bool quantize);
  void SetRow(size_t token, const float* x);

  size_t tokens() const { return tokens_; }
  size_t cols() const { return cols_; }
  size_t padded_cols() const { return padded_cols_; }  // cols rounded up to 64; the padding is zero
  size_t groups() const { return (padded_cols_ + kGroupCols - 1) / kGroupCols; }
  bool quantized() const { return quantized_; }
  const float* row(size_t token) const { return values_.data() + token * padded_cols_; }
  // round(x / scale) in [-127, 127], scale = max|x| / 127 of the block.
  const int8_t* codes(size_t token) const { return codes_.data() + token * padded_cols_; }
  // Scales of the blocks, [groups, 16 lanes] a row.
  const float* scales(size_t token) const { return scales_.data() + token * groups() * 16; }
  // -128 * (sum of the block's codes), [groups, 16 lanes] a row: what an accumulator starts from
  // where weights are biased by 128 to be unsigned bytes.
  const int32_t* biases(size_t token) const { return biases_.data() + token * groups() * 16; }
  // sum over columns of scale * code: what a row's offset is multiplied with.
  float total(size_t token) const { return totals_[token]; }

 private:
  size_t tokens_ = 0, cols_ = 0, padded_cols_ = 0;
  bool quantized_ = false;
  AlignedVector<float> values_;
  AlignedVector<int8_t> codes_;
  AlignedVector<float> scales_;
  AlignedVector<int32_t> biases_;
  std::vector<float> totals_;
};

// A matrix ready for products. Immutable; Multiply may run on disjoint row ranges from several
// threads.
//
// W may be stored as W~ (incoherence processing, core/transform/incoherence.h). Then Multiply is
// y~ = W~ x~: the caller transforms inputs, once for all matrices that share the transform, and
// restores outputs, for which it needs all of a row's elements.
class LinearOperator {
 public:
  // From a codec's matrix; the bytes it views must outlive the operator. Parts may be repacked
  // without loss (the outlier index is expanded to a bitmap).
  static std::unique_ptr<LinearOperator> FromPacked(std::unique_ptr<PackedMatrix> matrix);
  // From dense values in the float form, stored as `dtype` (F32, F16, BF16); `bytes` are copied.
  static absl::StatusOr<std::unique_ptr<LinearOperator>> FromDense(uint64_t rows, uint64_t cols,
                                                                   DType dtype,
                                                                   absl::Span<const uint8_t> bytes);
  virtual ~LinearOperator() = default;

  uint64_t rows() const { return rows_; }
  uint64_t cols() const { return cols_; }
  // Whether Multiply reads the int8 form of its activations.
  virtual bool needs_quantized_activations() const = 0;
  // What was done to W before it was stored, null for nothing.
  virtual const Incoherence* incoherence() const { return nullptr; }
  // y[t * stride + r] = sum_c W[r, c] x[t, c] for r in [row_begin, row_end), every t. W~ where
  // there is incoherence processing.
  virtual void Multiply(const Activations& x, size_t row_begin, size_t row_end, float* y,
                        size_t stride) const = 0;
  // Whether DecodeRow may be called. Not where outputs are transformed: there, each row of W is
  // made of all rows of W~.
  bool decodes_rows() const;
  // Row `row` of W as floats (embedding look-up): the codec's exact values, incoherence processing
  // undone.
  void DecodeRow(uint64_t row, float* out) const;
  // Bytes a product with one activation row reads from memory.
  virtual uint64_t weight_bytes() const = 0;

 protected:
  LinearOperator(uint64_t rows, uint64_t cols) : rows_(rows), cols_(cols) {}

  // Row `row` as it is stored, of W~ where there is incoherence processing.
  virtual void DecodeStoredRow(uint64_t row, float* out) const = 0;

 private:
  uint64_t rows_;
  uint64_t cols_;
};

// The SIMD target in use ("AVX3_DL", "AVX2", ...), and those this binary could use on this machine,
// best first.
const char* ActiveTarget();
std::vector<const char*> AvailableTargets();
// Limits the process to one target by name, for tests and comparisons; also set by the environment
// variable QUANTLOOM_SIMD. INVALID_ARGUMENT naming the choices. FAILED_PRECONDITION (from
// RequireSupportedCpu) when the machine has none: the oldest supported x86 is AVX2 with FMA.
absl::Status ForceTarget(absl::string_view name);
absl::Status RequireSupportedCpu();

}  // namespace quantloom::cpu
