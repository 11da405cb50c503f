// What a device gives the transformer graph: memory and operators. The graph (engine/model.cc) is
// written once over this interface; the CPU implements it (engine/cpu_backend.h).
//
// All operators work on rows of a ragged batch and keep the one-numeric-path rule: a row's result
// depends on that row, the parameters and its sequence's cached positions alone, not on what else
// is in the batch.
//
// Operators return nothing: a device runs them later, and may fail in the middle. The first failure
// stays: from then on the backend's operators do nothing, and status() says why. Whoever reads
// results asks it, once a step.
//
// Thread-safety: parameters (DeviceMatrix, DeviceVector) are immutable and shared. Of the CPU's
// backend operators may run from several threads as long as no buffer, batch or KV block is used by
// two of them; other backends are for one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "core/base/dtype.h"
#include "core/codec/codec.h"
#include "core/codec/trellis_search.h"
#include "engine/ragged_batch.h"
#include "engine/token_choice.h"

namespace quantloom {

// A stored weight matrix [rows = output features, cols = input features]. Where incoherence
// processing was applied to it before it was stored, products transform inputs and outputs: to
// callers it is the matrix that was encoded.
class DeviceMatrix {
 public:
  virtual ~DeviceMatrix() = default;
  virtual uint64_t rows() const = 0;
  virtual uint64_t cols() const = 0;
  // Whether Embed can look its rows up. Not where incoherence processing transformed the outputs: a
  // row then is made of the whole stored matrix.
  virtual bool decodes_rows() const = 0;
  virtual uint64_t weight_bytes() const = 0;  // read by a product with one activation row
};

// fp32 parameters [n]: a norm's weight, a bias.
class DeviceVector {
 public:
  virtual ~DeviceVector() = default;
  virtual uint64_t size() const = 0;
};

// fp32 activations [max_rows, cols], and whatever form of them the device's products read.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual size_t max_rows() const = 0;
  virtual size_t cols() const = 0;
};

// A ragged batch as operators read it, and rows selected of it.
class DeviceBatch {
 public:
  virtual ~DeviceBatch() = default;
  // Rows for operators to work on: those of the ragged batch, and on some devices padding that
  // brings their number to one of few. Padding belongs to no sequence and means nothing.
  virtual size_t rows() const = 0;
  virtual size_t selected_rows() const = 0;
  // Whether tokens are to be chosen after some of the selected rows.
  virtual bool chooses() const = 0;
};

// Element type of cached keys and values.
enum class KvElement : uint8_t { kF16, kF32 };

struct KvShape {
  uint32_t layers = 0;
  uint32_t blocks = 0;
  uint32_t block_tokens = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  KvElement element = KvElement::kF16;

  uint64_t block_bytes() const {  // keys and values of all layers
    return uint64_t{2} * layers * block_tokens * kv_heads * head_dim *
           (element == KvElement::kF16 ? 2 : 4);
  }
};

// Memory of the KV cache; which block belongs to whom is engine/kv_cache.h's business.
class KvStorage {
 public:
  explicit KvStorage(const KvShape& shape) : shape_(shape) {}
  virtual ~KvStorage() = default;
  const KvShape& shape() const { return shape_; }

 private:
  KvShape shape_;
};

// The attention of one layer.
struct AttentionParameters {
  uint32_t heads = 0;
  uint32_t kv_heads = 0;  // divides heads; query head h reads kv head h / (heads / kv_heads)
  uint32_t head_dim = 0;
  float norm_eps = 0;                    // of q_norm and k_norm
  const DeviceVector* q_norm = nullptr;  // [head_dim] or null
  const DeviceVector* k_norm = nullptr;
};

class HessianSum;  // engine/hessian_sum.h

// What a matrix is for.
enum class MatrixUse : uint8_t {
  kProducts,
  kKeysValues,  // products that make what attention keeps
  kRows,        // to have its rows looked up as well
};

class Backend {
 public:
  virtual ~Backend() = default;

  // OK, or what first went wrong: RESOURCE_EXHAUSTED where memory could not be had, INTERNAL where
  // the device failed.
  virtual absl::Status status() const = 0;

  // Bytes of the device's own memory that this backend's objects hold; 0 where they are the host's.
  // May be asked from any thread.
  virtual uint64_t memory_bytes() const = 0;

  // Packed matrices without a kernel for their form, which the device therefore keeps decoded.
  virtual uint64_t decoded_matrices() const = 0;

  // Where trellis codes search while models are quantized; null where that is the host's threads.
  // Its errors are status()'s, too, but for memory that cannot be had.
  virtual TrellisSearch* trellis_search() = 0;

  // --- Memory -----------------------------------------------------------------------------------

  // From a codec's matrix; the bytes it views must outlive the result.
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromPacked(
      std::unique_ptr<PackedMatrix> matrix, MatrixUse use) = 0;
  // From dense values of type `dtype` (F32, F16, BF16); `bytes` are copied.
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromDense(
      uint64_t rows, uint64_t cols, DType dtype, absl::Span<const uint8_t> bytes) = 0;
  // Where memory for one of these cannot be had, status() says so.
  virtual std::unique_ptr<DeviceVector> Vector(absl::Span<const float> values) = 0;
  virtual std::unique_ptr<DeviceBuffer> Buffer(size_t max_rows, size_t cols) = 0;
  virtual std::unique_ptr<DeviceBatch> Batch(size_t max_rows, size_t max_selected) = 0;
  // RESOURCE_EXHAUSTED when the memory cannot be had.
  virtual absl::StatusOr<std::unique_ptr<KvStorage>> AllocateKv(const KvShape& shape) = 0;
  // The most exact element that AllocateKv takes.
  virtual KvElement exact_kv_element() const = 0;
  // Of inputs of n columns, all zeros. RESOURCE_EXHAUSTED when the memory cannot be had.
  virtual absl::StatusOr<std::unique_ptr<HessianSum>> NewHessianSum(uint64_t n) = 0;

  // Copies block `from`, all layers' keys and values, over block `to`.
  virtual void CopyKvBlock(int32_t from, int32_t to, KvStorage& kv) = 0;

  // Copies `values` (whole rows, from row 0) into the buffer.
  virtual void Write(absl::Span<const float> values, DeviceBuffer& buffer) = 0;
  // The first `rows` rows on the host, contiguous; valid until the buffer is next used. Waits for
  // the operators that were called before. Empty when the backend has failed.
  virtual absl::Span<const float> Read(const DeviceBuffer& buffer, size_t rows) = 0;

  // Makes `to` stand for `batch`, of at most its max_rows, no rows selected and no tokens to be
  // chosen. `batch` and what it views must stay as they are until the last operator has been
  // called.
  virtual void SetBatch(const RaggedBatch& batch, DeviceBatch& to) = 0;
  // Selects rows of the batch, at most its max_selected, in this order.
  virtual void Select(absl::Span<const uint32_t> rows, DeviceBatch& batch) = 0;
  // Says how the tokens after the last choices.size() of the selected rows are chosen; after those
  // before, none is. Choices have at most kMaxLogitEdits edits each, which must stay as they are
  // until the last operator has been called.
  virtual void SetChoices(absl::Span<const TokenChoice> choices, DeviceBatch& batch) = 0;

  // Runs `operators`, which call operators of this backend on `batch` and read nothing. What they
  // call may depend on batch.rows(), batch.selected_rows() and batch.chooses() alone: where these
  // have been the same before, a device may repeat what it recorded then, with the batch as it is
  // now. A device may return before the step has run.
  virtual void RunStep(DeviceBatch& batch, absl::FunctionRef<void()> operators) = 0;
  // Whether the host may start a step, from SetBatch on, before it has finished the one before: at
  // most one more. Steps run one after the other, in any case. Where not, FinishStep must follow
  // RunStep.
  virtual bool runs_ahead() const = 0;
  // Waits for the oldest step that was not finished, and returns the tokens that it chose, by
  // selected row; unspecified for rows without a choice. Valid until the step after the next is
  // started. Empty when the backend has failed.
  virtual absl::Span<const ChosenToken> FinishStep(DeviceBatch& batch) = 0;
  // How long the device worked on the batch's step that was last finished.
  virtual absl::Duration StepTime(const DeviceBatch& batch) = 0;

  // --- Operators; n = batch rows ----------------------------------------------------------------

  // out[t] = table[tokens[t]].  out [n, table.cols]. Precondition: table.decodes_rows(). Tokens may
  // be ChosenInRow of the batch's step before.
  virtual void Embed(const DeviceMatrix& table, const DeviceBatch& batch, DeviceBuffer& out) = 0;
  // out[t] = RMSNorm(x[t]) * weight, t < n.
  virtual void Norm(const DeviceBuffer& x, size_t n, const DeviceVector& weight, float eps,
                    DeviceBuffer& out) = 0;
  // out[i] = RMSNorm(x[the i-th selected row]) * weight.
  virtual void NormSelected(const DeviceBuffer& x, const DeviceBatch& batch,
                            const DeviceVector& weight, float eps, DeviceBuffer& out) = 0;
  // y = [W_0 x + b_0 | W_1 x + b_1 | ...], side by side. Biases may be null, the span empty.
  virtual void Linear(absl::Span<const DeviceMatrix* const> weights,
                      absl::Span<const DeviceVector* const> biases, size_t n, DeviceBuffer& x,
                      DeviceBuffer& y) = 0;
  // residual += W x. `scratch` holds the product, [n, W.rows].
  virtual void LinearAdd(const DeviceMatrix& weight, size_t n, DeviceBuffer& x,
                         DeviceBuffer& scratch, DeviceBuffer& residual) = 0;
  // out = silu(G x) * (U x), out [n, G.rows]. `scratch` holds the products, [n, 2 G.rows].
  virtual void GatedLinear(const DeviceMatrix& gate, const DeviceMatrix& up, size_t n,
                           DeviceBuffer& x, DeviceBuffer& scratch, DeviceBuffer& out) = 0;
  // qkv [n, (heads + 2 kv_heads) head_dim]: normalizes q and k heads where the layer does, rotates
  // them by their position (angles [n, head_dim]: head_dim/2 cosines, then as many sines), stores
  // k and v in the batch's cache blocks.
  virtual void RotateAndStore(const DeviceBatch& batch, const AttentionParameters& attention,
                              uint32_t layer, const DeviceBuffer& angles, DeviceBuffer& qkv,
                              KvStorage& kv) = 0;
  // out[t] [heads head_dim]: causal softmax attention of qkv's queries over the cached positions
  // 0 .. position(t) of each row's sequence, the batch's own included.
  virtual void Attend(DeviceBatch& batch, const AttentionParameters& attention, uint32_t layer,
                      const DeviceBuffer& qkv, const KvStorage& kv, DeviceBuffer& out) = 0;
  // Chooses tokens (engine/token_choice.h) from `logits` [selected rows, vocabulary] as the batch's
  // choices say, for FinishStep and for Embed in the batch's next step. Rows that a token is chosen
  // from are edited.
  virtual void ChooseTokens(DeviceBuffer& logits, DeviceBatch& batch) = 0;
};

}  // namespace quantloom
