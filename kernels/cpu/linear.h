// Products with stored matrices on the CPU: y = W x for one or many activation rows, weights
// decoded in registers (where the codec has a kernel) or a few rows at a time.
//
// One numeric path: an output element y[t, r] depends on W's row r and x's row t alone. It is the
// same sum in the same order for one activation row or many, for any split of rows among threads,
// and for every SIMD target:
//  - integer form (matrices whose values are scale * integer + offset, the integer of 8 bits or,
//    for trellis and lattice codes, up to 16): activations are quantized to int8 with one fp32
//    scale per block. Columns are taken in steps of 64 and groups of 4 or 8 steps; lane l of 16 has
//    columns 4l..4l+3 of each step, and a block is what one lane has in one group: 16 or 32
//    columns. Products accumulate exactly in int32 within a block; a block's sum is rounded to fp32
//    (exact below 2^24, of weights up to 8 bits). The 16 fp32 lanes accumulate scale * (block sum)
//    over the groups in ascending order by FMA and are added by a fixed tree (l + 8, l + 4, l + 2,
//    l + 1) at the end. Blocks stride over the group so that its steps share one conversion to
//    float. Where int8 activations are too coarse, a second row of codes has what the first one
//    leaves; the element is the sum of both rows' products.
//  - float form (source weights F32/F16/BF16, codebooks of fp16 or range levels, codecs without a
//    kernel): lane l accumulates columns c = l mod 16, ascending, by FMA; the same tree adds the
//    lanes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/codec/codec.h"
#include "kernels/cpu/aligned.h"

namespace quantloom::cpu {

// The form in which products read activations; kInt16 has what kInt8 has.
enum class ActivationForm : uint8_t {
  kFloat,     // fp32
  kInt8Wide,  // int8 codes with one fp32 scale for 32 columns
  kInt8,      // int8 codes with one fp32 scale for 16 columns
  kInt16,     // and int8 codes of what those leave, with 1/254 of their scales: 15.99 bits
};

// A batch of activation rows prepared once for all products that read it (q/k/v share one; gate/up
// share one). Not thread-safe while being assigned; read-only use from several threads is fine.
// Memory is kept between assignments.
class Activations {
 public:
  static constexpr size_t kStepCols = 64;  // columns of one step of the integer forms
  // Steps of a group, whose products share int32 accumulators; in kInt8Wide the latter.
  static constexpr size_t kGroupSteps = 4, kWideGroupSteps = 8;

  // What integer products read of a group of a row of codes, a unit so that a row is one stream of
  // memory.
  template <size_t kSteps>
  struct alignas(64) Group {
    int8_t codes[kSteps * kStepCols];
    float scales[16];  // of the blocks, by lane
    // -128 * (sum of the block's codes): what an accumulator starts from where weights are biased
    // by 128 to be unsigned bytes.
    int32_t biases[16];
  };

  // Takes a copy of x [tokens, cols] (row stride `stride` floats), or in the integer forms its
  // codes alone. A block with an infinite or NaN value gets NaN scales: its products are NaN. The
  // same as Resize, then SetRow of every row.
  void Assign(const float* x, size_t tokens, size_t cols, size_t stride, ActivationForm form);

  // In two steps, for preparing many rows from several threads: Resize makes room (contents are
  // then unspecified); SetRow, on distinct rows from any threads, takes one row's cols() values.
  void Resize(size_t tokens, size_t cols, ActivationForm form);
  void SetRow(size_t token, const float* x);

  size_t tokens() const { return tokens_; }
  size_t cols() const { return cols_; }
  size_t padded_cols() const { return padded_cols_; }  // cols rounded up to 64; the padding is zero
  size_t group_cols() const { return group_steps() * kStepCols; }
  size_t groups() const { return (padded_cols_ + group_cols() - 1) / group_cols(); }
  ActivationForm form() const { return form_; }
  // In the float form: padded_cols() values.
  const float* row(size_t token) const { return values_.data() + token * row_stride(); }
  size_t row_stride() const { return SpreadStride<float>(padded_cols_); }
  // Rows of codes: one for each token, then in kInt16 another one for each.
  size_t code_rows() const {
    if (form_ == ActivationForm::kFloat) return 0;
    return form_ == ActivationForm::kInt16 ? 2 * tokens_ : tokens_;
  }
  size_t token_of(size_t i) const { return i < tokens_ ? i : i - tokens_; }
  // Row of codes i, [groups()], kSteps being those of the form, in [-127, 127]. For i < tokens()
  // they are round(x / scale), scale = max|x| / 127, 126 or 125 of the block, whichever leaves
  // least. Row tokens() + t is what row t leaves, its scales 1/254 of row t's: x is the sum of both
  // rows' scale * code but for 1/508 of row t's scale. Codes of the last group are defined up to
  // padded_cols().
  template <size_t kSteps>
  const Group<kSteps>* code_row(size_t i) const {
    return reinterpret_cast<const Group<kSteps>*>(codes_.data() + i * code_row_bytes());
  }
  // sum over columns of scale * code: what a row's offset is multiplied with.
  float total(size_t i) const { return totals_[i]; }

 private:
  size_t group_steps() const {
    return form_ == ActivationForm::kInt8Wide ? kWideGroupSteps : kGroupSteps;
  }
  // From one row of codes to the next.
  size_t code_row_bytes() const {
    const bool wide = form_ == ActivationForm::kInt8Wide;
    return SpreadStride<uint8_t>(
        groups() * (wide ? sizeof(Group<kWideGroupSteps>) : sizeof(Group<kGroupSteps>)));
  }

  size_t tokens_ = 0, cols_ = 0, padded_cols_ = 0;
  ActivationForm form_ = ActivationForm::kFloat;
  AlignedVector<float> values_;
  AlignedVector<uint8_t> codes_;  // [code_rows, code_row_bytes]
  std::vector<float> totals_;
};

// What models run with: the fastest form whose rounding costs less than 1 % of what the codec costs
// (KL divergence; docs/quality.md). That is int8, for ICQuant of up to 3 bits with a scale for 32
// columns; and int16 for ICQuant at 8 bits and, where keys or values are made (errors cost most
// there, for few weights), at 4.
ActivationForm BestActivationForm(const PackedMatrix& matrix, bool keys_values = false);

// A matrix ready for products. Immutable; Multiply may run on disjoint row ranges from several
// threads.
//
// W may be stored as W~ (incoherence processing, core/transform/incoherence.h). Then Multiply is
// y~ = W~ x~: the caller transforms inputs, once for all matrices that share the transform, and
// restores outputs, for which it needs all of a row's elements.
class LinearOperator {
 public:
  // From a codec's matrix; the bytes it views must outlive the operator. Parts may be repacked
  // without loss (icquant_stream.h). Activations are read in `form`, by default the best one:
  // kFloat decodes the weights; kInt8 and kInt16 are ICQuant's choice at 4 and 8 bits, others have
  // one integer form, which any of them stands for.
  static std::unique_ptr<LinearOperator> FromPacked(std::unique_ptr<PackedMatrix> matrix,
                                                    std::optional<ActivationForm> form = {});
  // From dense values in the float form, stored as `dtype` (F32, F16, BF16); `bytes` are copied.
  static absl::StatusOr<std::unique_ptr<LinearOperator>> FromDense(uint64_t rows, uint64_t cols,
                                                                   DType dtype,
                                                                   absl::Span<const uint8_t> bytes);
  virtual ~LinearOperator() = default;

  uint64_t rows() const { return rows_; }
  uint64_t cols() const { return cols_; }
  // What Multiply reads of its activations.
  virtual ActivationForm activation_form() const = 0;
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
