#include "engine/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <new>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "core/base/status.h"
#include "core/transform/incoherence.h"
#include "engine/hessian_sum.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/ops.h"

namespace quantloom {
namespace {

// Rows of a matrix per claim: enough claims to balance the team, each large enough that claiming
// costs nothing, and a multiple of every kernel's row tile.
constexpr size_t kRowTile = 16;
constexpr size_t kClaimsPerWorker = 4;
// Activation rows per claim in row-wise operators (norms, embedding look-up, quantization).
constexpr size_t kTokenGrain = 4;
// Queries of an attention item at most: so many that prompt tokens share what is read of the cache.
constexpr size_t kAttentionQueries = 48;
// Multiply-adds below which attention is not worth waking another worker.
constexpr size_t kAttentionGrainWork = 8192;

class CpuMatrix final : public DeviceMatrix {
 public:
  explicit CpuMatrix(std::unique_ptr<cpu::LinearOperator> op) : op_(std::move(op)) {}
  uint64_t rows() const override { return op_->rows(); }
  uint64_t cols() const override { return op_->cols(); }
  bool decodes_rows() const override { return op_->decodes_rows(); }
  uint64_t weight_bytes() const override { return op_->weight_bytes(); }
  const cpu::LinearOperator& op() const { return *op_; }

 private:
  std::unique_ptr<cpu::LinearOperator> op_;
};

class CpuVector final : public DeviceVector {
 public:
  explicit CpuVector(absl::Span<const float> values) : values_(values.begin(), values.end()) {}
  uint64_t size() const override { return values_.size(); }
  const float* data() const { return values_.data(); }

 private:
  std::vector<float> values_;
};

class CpuBuffer final : public DeviceBuffer {
 public:
  CpuBuffer(size_t max_rows, size_t cols)
      : max_rows_(max_rows), cols_(cols), values_(max_rows * cols) {}
  size_t max_rows() const override { return max_rows_; }
  size_t cols() const override { return cols_; }
  float* row(size_t r) { return values_.data() + r * cols_; }
  const float* row(size_t r) const { return values_.data() + r * cols_; }
  // The `form`-th of the forms in which a product last read the rows. Forms are added in order;
  // references stay valid.
  cpu::Activations& activations(size_t form) {
    if (form == activations_.size()) activations_.emplace_back();
    return activations_[form];
  }

 private:
  size_t max_rows_;
  size_t cols_;
  std::vector<float> values_;
  std::deque<cpu::Activations> activations_;
};

class CpuBatch final : public DeviceBatch {
 public:
  size_t rows() const override { return batch_ == nullptr ? 0 : batch_->size(); }
  size_t selected_rows() const override { return selected_.size(); }
  bool chooses() const override { return !choices_.empty(); }

  void Set(const RaggedBatch& batch) {
    batch_ = &batch;
    selected_ = {};
    choices_ = {};
  }
  void Select(absl::Span<const uint32_t> rows) { selected_ = rows; }
  void SetChoices(absl::Span<const TokenChoice> choices) { choices_ = choices; }
  const RaggedBatch& ragged() const { return *batch_; }
  // Of the last selected rows.
  absl::Span<const TokenChoice> choices() const { return choices_; }
  // By selected row; those of the last step until this one chooses.
  std::vector<ChosenToken>& chosen() { return chosen_; }
  const std::vector<ChosenToken>& chosen() const { return chosen_; }
  absl::Span<const uint32_t> selected() const { return selected_; }
  absl::Duration step_time() const { return step_time_; }
  void set_step_time(absl::Duration time) { step_time_ = time; }

 private:
  absl::Duration step_time_;
  const RaggedBatch* batch_ = nullptr;
  absl::Span<const uint32_t> selected_;
  absl::Span<const TokenChoice> choices_;
  std::vector<ChosenToken> chosen_;
};

class CpuKvStorage final : public KvStorage {
 public:
  CpuKvStorage(const KvShape& shape, std::unique_ptr<std::byte[]> bytes)
      : KvStorage(shape),
        head_bytes_(size_t{shape.head_dim} * shape.block_tokens *
                    (shape.element == KvElement::kF16 ? 2 : 4)),
        plane_bytes_(head_bytes_ * shape.kv_heads),
        bytes_(std::move(bytes)) {}

  // Block layout: [layer][key, value][kv head], then as kernels/cpu/ops.h says.
  std::byte* keys(uint32_t layer, int32_t block, uint32_t head) const {
    return bytes_.get() + static_cast<size_t>(block) * shape().block_bytes() +
           size_t{layer} * 2 * plane_bytes_ + head * head_bytes_;
  }
  std::byte* values(uint32_t layer, int32_t block, uint32_t head) const {
    return keys(layer, block, head) + plane_bytes_;
  }
  void CopyBlock(int32_t from, int32_t to) const {
    std::memcpy(keys(0, to, 0), keys(0, from, 0), shape().block_bytes());
  }
  cpu::KvType type() const {
    return shape().element == KvElement::kF16 ? cpu::KvType::kF16 : cpu::KvType::kF32;
  }

 private:
  size_t head_bytes_;
  size_t plane_bytes_;
  std::unique_ptr<std::byte[]> bytes_;
};

const cpu::LinearOperator& Op(const DeviceMatrix& matrix) {
  return static_cast<const CpuMatrix&>(matrix).op();
}
const float* Data(const DeviceVector& vector) {
  return static_cast<const CpuVector&>(vector).data();
}
CpuBuffer& Cpu(DeviceBuffer& buffer) { return static_cast<CpuBuffer&>(buffer); }
const CpuBuffer& Cpu(const DeviceBuffer& buffer) { return static_cast<const CpuBuffer&>(buffer); }
const CpuBatch& Cpu(const DeviceBatch& batch) { return static_cast<const CpuBatch&>(batch); }

class CpuHessianSum final : public HessianSum {
 public:
  CpuHessianSum(uint64_t n, ThreadTeam& team) : sum_(n), team_(team) {}
  void Add(const DeviceBuffer& x, size_t rows) override {
    sum_.Accumulate({Cpu(x).row(0), rows * x.cols()}, team_);
  }
  absl::StatusOr<Hessian> Take() override { return std::move(sum_); }

 private:
  Hessian sum_;
  ThreadTeam& team_;
};
const RaggedBatch& Ragged(const DeviceBatch& batch) { return Cpu(batch).ragged(); }

// A matrix's transforms of inputs and outputs, null for none.
const HadamardTransform* InputTransform(const cpu::LinearOperator& op) {
  return op.incoherence() == nullptr ? nullptr : op.incoherence()->input();
}
const HadamardTransform* OutputTransform(const cpu::LinearOperator& op) {
  return op.incoherence() == nullptr ? nullptr : op.incoherence()->output();
}

// Whether one form of inputs has another one.
bool Has(cpu::ActivationForm form, cpu::ActivationForm other) {
  return form == other ||
         (form == cpu::ActivationForm::kInt16 && other == cpu::ActivationForm::kInt8);
}

// Whether matrices with equally many columns may read the same inputs: values or codes, under one
// transform.
bool ShareInputs(const cpu::LinearOperator& a, const cpu::LinearOperator& b) {
  const cpu::ActivationForm form_a = a.activation_form(), form_b = b.activation_form();
  if (!Has(form_a, form_b) && !Has(form_b, form_a)) return false;
  if (InputTransform(a) == nullptr || InputTransform(b) == nullptr) {
    return InputTransform(a) == InputTransform(b);
  }
  const IncoherenceOptions& of_a = a.incoherence()->options();
  const IncoherenceOptions& of_b = b.incoherence()->options();
  return of_a.input_seed == of_b.input_seed && of_a.blocks == of_b.blocks;
}

// One row of a product with `op`, y~ -> y in place.
void RestoreOutputs(const cpu::LinearOperator& op, float* y) {
  const HadamardTransform* transform = OutputTransform(op);
  if (transform != nullptr) transform->Apply(Direction::kTransposed, {y, op.rows()});
}

// One form of a product's inputs, and a matrix that reads it.
struct InputForm {
  const cpu::LinearOperator* reader;
  cpu::ActivationForm form;
  cpu::Activations* activations;
};

// What each matrix of a group reads.
using Inputs = absl::InlinedVector<const cpu::Activations*, 4>;

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadTeam& team, std::optional<cpu::ActivationForm> activations)
      : team_(team), activations_(activations) {}

  absl::Status status() const override { return absl::OkStatus(); }
  uint64_t memory_bytes() const override { return 0; }
  uint64_t decoded_matrices() const override { return 0; }
  TrellisSearch* trellis_search() override { return nullptr; }

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromPacked(
      std::unique_ptr<PackedMatrix> matrix, MatrixUse use) override {
    const cpu::ActivationForm form =
        activations_.value_or(cpu::BestActivationForm(*matrix, use == MatrixUse::kKeysValues));
    return std::make_unique<CpuMatrix>(cpu::LinearOperator::FromPacked(std::move(matrix), form));
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromDense(
      uint64_t rows, uint64_t cols, DType dtype, absl::Span<const uint8_t> bytes) override {
    QL_ASSIGN_OR_RETURN(auto op, cpu::LinearOperator::FromDense(rows, cols, dtype, bytes));
    return std::make_unique<CpuMatrix>(std::move(op));
  }
  std::unique_ptr<DeviceVector> Vector(absl::Span<const float> values) override {
    return std::make_unique<CpuVector>(values);
  }
  std::unique_ptr<DeviceBuffer> Buffer(size_t max_rows, size_t cols) override {
    return std::make_unique<CpuBuffer>(max_rows, cols);
  }
  std::unique_ptr<DeviceBatch> Batch(size_t, size_t) override {
    return std::make_unique<CpuBatch>();
  }
  absl::StatusOr<std::unique_ptr<KvStorage>> AllocateKv(const KvShape& shape) override;
  KvElement exact_kv_element() const override { return KvElement::kF32; }
  absl::StatusOr<std::unique_ptr<HessianSum>> NewHessianSum(uint64_t n) override {
    return std::make_unique<CpuHessianSum>(n, team_);
  }

  void CopyKvBlock(int32_t from, int32_t to, KvStorage& kv) override {
    static_cast<const CpuKvStorage&>(kv).CopyBlock(from, to);
  }

  void Write(absl::Span<const float> values, DeviceBuffer& buffer) override {
    std::copy(values.begin(), values.end(), Cpu(buffer).row(0));
  }
  absl::Span<const float> Read(const DeviceBuffer& buffer, size_t rows) override {
    return {Cpu(buffer).row(0), rows * buffer.cols()};
  }

  void SetBatch(const RaggedBatch& batch, DeviceBatch& to) override {
    static_cast<CpuBatch&>(to).Set(batch);
  }
  void Select(absl::Span<const uint32_t> rows, DeviceBatch& batch) override {
    static_cast<CpuBatch&>(batch).Select(rows);
  }
  void SetChoices(absl::Span<const TokenChoice> choices, DeviceBatch& batch) override {
    static_cast<CpuBatch&>(batch).SetChoices(choices);
  }
  void RunStep(DeviceBatch& batch, absl::FunctionRef<void()> operators) override {
    const absl::Time begin = absl::Now();
    operators();
    static_cast<CpuBatch&>(batch).set_step_time(absl::Now() - begin);
  }
  // The step has run when RunStep returns.
  bool runs_ahead() const override { return false; }
  absl::Span<const ChosenToken> FinishStep(DeviceBatch& batch) override {
    return Cpu(batch).chosen();
  }
  absl::Duration StepTime(const DeviceBatch& batch) override { return Cpu(batch).step_time(); }

  void Embed(const DeviceMatrix& table, const DeviceBatch& batch, DeviceBuffer& out) override;
  void Norm(const DeviceBuffer& x, size_t n, const DeviceVector& weight, float eps,
            DeviceBuffer& out) override;
  void NormSelected(const DeviceBuffer& x, const DeviceBatch& batch, const DeviceVector& weight,
                    float eps, DeviceBuffer& out) override;
  void Linear(absl::Span<const DeviceMatrix* const> weights,
              absl::Span<const DeviceVector* const> biases, size_t n, DeviceBuffer& x,
              DeviceBuffer& y) override;
  void LinearAdd(const DeviceMatrix& weight, size_t n, DeviceBuffer& x, DeviceBuffer& scratch,
                 DeviceBuffer& residual) override;
  void GatedLinear(const DeviceMatrix& gate, const DeviceMatrix& up, size_t n, DeviceBuffer& x,
                   DeviceBuffer& scratch, DeviceBuffer& out) override;
  void RotateAndStore(const DeviceBatch& batch, const AttentionParameters& attention,
                      uint32_t layer, const DeviceBuffer& angles, DeviceBuffer& qkv,
                      KvStorage& kv) override;
  void Attend(DeviceBatch& batch, const AttentionParameters& attention, uint32_t layer,
              const DeviceBuffer& qkv, const KvStorage& kv, DeviceBuffer& out) override;
  void ChooseTokens(DeviceBuffer& logits, DeviceBatch& batch) override;

 private:
  // Makes x's first n rows readable for products: for each transform of inputs among `weights` one
  // form, quantized when one of its readers wants that.
  Inputs Prepare(absl::Span<const DeviceMatrix* const> weights, size_t n, CpuBuffer& x);
  // Calls body on row ranges of a matrix (or several, stacked) with `rows` rows.
  void ForRows(size_t rows, ThreadTeam::Body body) {
    const size_t claims = static_cast<size_t>(team_.size()) * kClaimsPerWorker;
    const size_t grain = ((rows + claims - 1) / claims + kRowTile - 1) / kRowTile * kRowTile;
    team_.ParallelFor(rows, grain, body);
  }
  // Calls body(t) for activation rows that pass a Hadamard transform: microseconds each, so that
  // every row is a claim.
  void ForTransformedRows(size_t n, absl::FunctionRef<void(size_t t)> body) {
    team_.ParallelFor(n, /*grain=*/1, [&](size_t begin, size_t end, int) {
      for (size_t t = begin; t < end; ++t) body(t);
    });
  }

  ThreadTeam& team_;
  const std::optional<cpu::ActivationForm> activations_;
};

absl::StatusOr<std::unique_ptr<KvStorage>> CpuBackend::AllocateKv(const KvShape& shape) {
  const uint64_t bytes = shape.blocks * shape.block_bytes();
  // Not initialized: pages that no sequence reached cost no memory.
  std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[bytes]);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate a KV cache of ", bytes, " bytes"));
  }
  return std::make_unique<CpuKvStorage>(shape, std::move(memory));
}

void CpuBackend::Embed(const DeviceMatrix& table, const DeviceBatch& batch, DeviceBuffer& out) {
  const absl::Span<const int32_t> tokens = Ragged(batch).tokens();
  CpuBuffer& rows = Cpu(out);
  team_.ParallelFor(tokens.size(), kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      const int32_t token =
          IsChosenInRow(tokens[t]) ? Cpu(batch).chosen()[RowOfChosen(tokens[t])].token : tokens[t];
      Op(table).DecodeRow(static_cast<uint64_t>(token), rows.row(t));
    }
  });
}

void CpuBackend::Norm(const DeviceBuffer& x, size_t n, const DeviceVector& weight, float eps,
                      DeviceBuffer& out) {
  team_.ParallelFor(n, kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      cpu::RmsNorm(Cpu(x).row(t), Data(weight), x.cols(), eps, Cpu(out).row(t));
  });
}

void CpuBackend::NormSelected(const DeviceBuffer& x, const DeviceBatch& batch,
                              const DeviceVector& weight, float eps, DeviceBuffer& out) {
  const absl::Span<const uint32_t> rows = Cpu(batch).selected();
  team_.ParallelFor(rows.size(), kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i)
      cpu::RmsNorm(Cpu(x).row(rows[i]), Data(weight), x.cols(), eps, Cpu(out).row(i));
  });
}

Inputs CpuBackend::Prepare(absl::Span<const DeviceMatrix* const> weights, size_t n, CpuBuffer& x) {
  absl::InlinedVector<InputForm, 4> forms;
  Inputs inputs;
  for (const DeviceMatrix* weight : weights) {
    const cpu::LinearOperator& op = Op(*weight);
    auto form = std::find_if(forms.begin(), forms.end(), [&](const InputForm& candidate) {
      return ShareInputs(*candidate.reader, op);
    });
    if (form == forms.end()) {
      form = forms.insert(form, {&op, op.activation_form(), &x.activations(forms.size())});
    }
    form->form = std::max(form->form, op.activation_form());
    inputs.push_back(form->activations);
  }
  for (const InputForm& form : forms) {
    const HadamardTransform* transform = InputTransform(*form.reader);
    form.activations->Resize(n, x.cols(), form.form);
    if (transform == nullptr) {
      team_.ParallelFor(n, kTokenGrain, [&](size_t begin, size_t end, int) {
        for (size_t t = begin; t < end; ++t) form.activations->SetRow(t, x.row(t));
      });
      continue;
    }
    ForTransformedRows(n, [&](size_t t) {
      thread_local std::vector<float> transformed;
      transformed.assign(x.row(t), x.row(t) + x.cols());
      transform->Apply(Direction::kForward, absl::MakeSpan(transformed));
      form.activations->SetRow(t, transformed.data());
    });
  }
  return inputs;
}

void CpuBackend::Linear(absl::Span<const DeviceMatrix* const> weights,
                        absl::Span<const DeviceVector* const> biases, size_t n, DeviceBuffer& x,
                        DeviceBuffer& y) {
  const Inputs inputs = Prepare(weights, n, Cpu(x));
  const size_t stride = y.cols();
  bool restore = false;
  absl::InlinedVector<size_t, 5> first = {0};  // row of each matrix in the stack; their sum
  for (const DeviceMatrix* weight : weights) {
    first.push_back(first.back() + weight->rows());
    restore |= OutputTransform(Op(*weight)) != nullptr;
  }
  // Rows [begin, end) of the stack, all of matrix m.
  const auto add_bias = [&](size_t t, size_t m, size_t begin, size_t end) {
    if (m >= biases.size() || biases[m] == nullptr) return;
    cpu::Add(Cpu(y).row(t) + begin, Data(*biases[m]) + (begin - first[m]), end - begin);
  };
  // Row r of the stacked matrix is column r of y; a range may straddle matrices.
  ForRows(stride, [&](size_t begin, size_t end, int) {
    for (size_t m = 0; m < weights.size(); ++m) {
      const size_t from = std::max(begin, first[m]), to = std::min(end, first[m + 1]);
      if (from >= to) continue;
      const cpu::LinearOperator& op = Op(*weights[m]);
      op.Multiply(*inputs[m], from - first[m], to - first[m], Cpu(y).row(0) + first[m], stride);
      if (OutputTransform(op) != nullptr) continue;
      for (size_t t = 0; t < n; ++t) add_bias(t, m, from, to);
    }
  });
  if (!restore) return;
  ForTransformedRows(n, [&](size_t t) {
    for (size_t m = 0; m < weights.size(); ++m) {
      if (OutputTransform(Op(*weights[m])) == nullptr) continue;
      RestoreOutputs(Op(*weights[m]), Cpu(y).row(t) + first[m]);
      add_bias(t, m, first[m], first[m + 1]);
    }
  });
}

void CpuBackend::LinearAdd(const DeviceMatrix& weight, size_t n, DeviceBuffer& x,
                           DeviceBuffer& scratch, DeviceBuffer& residual) {
  const Inputs inputs = Prepare({&weight}, n, Cpu(x));
  const bool restore = OutputTransform(Op(weight)) != nullptr;
  const auto add = [&](size_t t, size_t begin, size_t end) {
    cpu::Add(Cpu(residual).row(t) + begin, Cpu(scratch).row(t) + begin, end - begin);
  };
  ForRows(weight.rows(), [&](size_t begin, size_t end, int) {
    Op(weight).Multiply(*inputs[0], begin, end, Cpu(scratch).row(0), scratch.cols());
    if (restore) return;
    for (size_t t = 0; t < n; ++t) add(t, begin, end);
  });
  if (!restore) return;
  ForTransformedRows(n, [&](size_t t) {
    RestoreOutputs(Op(weight), Cpu(scratch).row(t));
    add(t, 0, weight.rows());
  });
}

void CpuBackend::GatedLinear(const DeviceMatrix& gate, const DeviceMatrix& up, size_t n,
                             DeviceBuffer& x, DeviceBuffer& scratch, DeviceBuffer& out) {
  const Inputs inputs = Prepare({&gate, &up}, n, Cpu(x));
  const size_t rows = gate.rows();
  const bool restore = OutputTransform(Op(gate)) != nullptr || OutputTransform(Op(up)) != nullptr;
  const auto activate = [&](size_t t, size_t begin, size_t end) {
    const float* products = Cpu(scratch).row(t);
    cpu::SwiGlu(products + begin, products + rows + begin, end - begin, Cpu(out).row(t) + begin);
  };
  ForRows(rows, [&](size_t begin, size_t end, int) {
    Op(gate).Multiply(*inputs[0], begin, end, Cpu(scratch).row(0), scratch.cols());
    Op(up).Multiply(*inputs[1], begin, end, Cpu(scratch).row(0) + rows, scratch.cols());
    if (restore) return;
    for (size_t t = 0; t < n; ++t) activate(t, begin, end);
  });
  if (!restore) return;
  ForTransformedRows(n, [&](size_t t) {
    RestoreOutputs(Op(gate), Cpu(scratch).row(t));
    RestoreOutputs(Op(up), Cpu(scratch).row(t) + rows);
    activate(t, 0, rows);
  });
}

void CpuBackend::RotateAndStore(const DeviceBatch& device_batch,
                                const AttentionParameters& attention, uint32_t layer,
                                const DeviceBuffer& angles, DeviceBuffer& qkv, KvStorage& kv) {
  const RaggedBatch& batch = Ragged(device_batch);
  const auto& cache = static_cast<const CpuKvStorage&>(kv);
  const size_t dim = attention.head_dim;
  const uint32_t block_tokens = kv.shape().block_tokens;
  team_.ParallelFor(batch.size(), kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) {
      const float* cos = Cpu(angles).row(t);
      const float* sin = cos + dim / 2;
      float* q = Cpu(qkv).row(t);
      float* k = q + attention.heads * dim;
      float* v = k + attention.kv_heads * dim;
      const uint32_t position = batch.positions()[t];
      const int32_t block = batch.block_table(t)[position / block_tokens];
      const size_t slot = position % block_tokens;
      for (uint32_t h = 0; h < attention.heads; ++h, q += dim) {
        if (attention.q_norm) cpu::RmsNorm(q, Data(*attention.q_norm), dim, attention.norm_eps, q);
        cpu::Rope(q, cos, sin, dim);
      }
      for (uint32_t h = 0; h < attention.kv_heads; ++h, k += dim, v += dim) {
        if (attention.k_norm) cpu::RmsNorm(k, Data(*attention.k_norm), dim, attention.norm_eps, k);
        cpu::Rope(k, cos, sin, dim);
        cpu::StoreKey(k, dim, cache.type(), block_tokens, slot, cache.keys(layer, block, h));
        cpu::StoreValue(v, dim, cache.type(), slot, cache.values(layer, block, h));
      }
    }
  });
}

void CpuBackend::Attend(DeviceBatch& device_batch, const AttentionParameters& attention,
                        uint32_t layer, const DeviceBuffer& qkv, const KvStorage& kv,
                        DeviceBuffer& out) {
  const RaggedBatch& batch = Ragged(device_batch);
  const auto& cache = static_cast<const CpuKvStorage&>(kv);
  const size_t dim = attention.head_dim;
  const size_t group = attention.heads / attention.kv_heads;  // query heads per kv head
  const uint32_t block_tokens = kv.shape().block_tokens;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  // One item is a kv head and the rows of a run: of one sequence, one after the other.
  struct Run {
    size_t first, count;
  };
  std::vector<Run> runs;
  const size_t claims = static_cast<size_t>(team_.size()) * kClaimsPerWorker;
  const size_t most = std::max<size_t>(
      1, std::min(kAttentionQueries / group, batch.size() * attention.kv_heads / claims));
  for (size_t t = 0; t < batch.size(); ++t) {
    const bool follows = t > 0 && batch.sequence(t) == batch.sequence(t - 1);
    if (follows && runs.back().count < most) {
      ++runs.back().count;
    } else {
      runs.push_back({t, 1});
    }
  }
  const auto attend = [&](size_t begin, size_t end, int) {
    std::vector<const std::byte*> keys;
    std::vector<const std::byte*> values;
    std::vector<cpu::AttentionQuery> queries;
    for (size_t item = begin; item < end; ++item) {
      const Run& run = runs[item / attention.kv_heads];
      const auto head = static_cast<uint32_t>(item % attention.kv_heads);
      keys.clear();
      values.clear();
      queries.clear();
      for (size_t t = run.first; t < run.first + run.count; ++t) {
        const size_t length = size_t{batch.positions()[t]} + 1;
        for (size_t h = head * group; h < (head + 1) * group; ++h) {
          queries.push_back({Cpu(qkv).row(t) + h * dim, Cpu(out).row(t) + h * dim, length});
        }
      }
      const size_t blocks = (queries.back().length + block_tokens - 1) / block_tokens;
      for (int32_t block : batch.block_table(run.first).subspan(0, blocks)) {
        keys.push_back(cache.keys(layer, block, head));
        values.push_back(cache.values(layer, block, head));
      }
      cpu::Attend(queries, keys, values, block_tokens, cache.type(), dim, scale);
    }
  };
  const auto longest =
      size_t{*std::max_element(batch.positions().begin(), batch.positions().end())} + 1;
  const size_t grain = std::max<size_t>(1, kAttentionGrainWork / (longest * group * dim * 2));
  team_.ParallelFor(runs.size() * attention.kv_heads, grain, attend);
}

void CpuBackend::ChooseTokens(DeviceBuffer& logits, DeviceBatch& device_batch) {
  auto& batch = static_cast<CpuBatch&>(device_batch);
  const absl::Span<const TokenChoice> choices = batch.choices();
  const size_t first = batch.selected_rows() - choices.size();
  batch.chosen().resize(batch.selected_rows());
  team_.ParallelFor(choices.size(), /*grain=*/1, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) {
      const size_t row = first + i;
      batch.chosen()[row] = ChooseToken({Cpu(logits).row(row), logits.cols()}, choices[i]);
    }
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    ThreadTeam& team, std::optional<cpu::ActivationForm> activations) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  return std::make_unique<CpuBackend>(team, activations);
}

}  // namespace quantloom
