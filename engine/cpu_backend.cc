#include "engine/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "core/base/status.h"
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
// Multiply-adds below which attention is not worth waking another worker.
constexpr size_t kAttentionGrainWork = 8192;

class CpuMatrix final : public DeviceMatrix {
 public:
  explicit CpuMatrix(std::unique_ptr<cpu::LinearOperator> op) : op_(std::move(op)) {}
  uint64_t rows() const override { return op_->rows(); }
  uint64_t cols() const override { return op_->cols(); }
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
  cpu::Activations& activations() { return activations_; }

 private:
  size_t max_rows_;
  size_t cols_;
  std::vector<float> values_;
  cpu::Activations activations_;  // of the rows a product last read
};

class CpuKvStorage final : public KvStorage {
 public:
  CpuKvStorage(const KvShape& shape, std::unique_ptr<std::byte[]> bytes)
      : KvStorage(shape),
        token_bytes_(size_t{shape.head_dim} * (shape.element == KvElement::kF16 ? 2 : 4)),
        head_bytes_(token_bytes_ * shape.block_tokens),
        plane_bytes_(head_bytes_ * shape.kv_heads),
        bytes_(std::move(bytes)) {}

  // Block layout: [layer][key, value][kv head][token][head_dim]; a head's positions are contiguous.
  std::byte* keys(uint32_t layer, int32_t block, uint32_t head) const {
    return bytes_.get() + static_cast<size_t>(block) * shape().block_bytes() +
           size_t{layer} * 2 * plane_bytes_ + head * head_bytes_;
  }
  std::byte* values(uint32_t layer, int32_t block, uint32_t head) const {
    return keys(layer, block, head) + plane_bytes_;
  }
  size_t token_bytes() const { return token_bytes_; }
  cpu::KvType type() const {
    return shape().element == KvElement::kF16 ? cpu::KvType::kF16 : cpu::KvType::kF32;
  }

 private:
  size_t token_bytes_;
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

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(ThreadTeam& team) : team_(team) {}

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromPacked(
      std::unique_ptr<PackedMatrix> matrix) override {
    QL_ASSIGN_OR_RETURN(auto op, cpu::LinearOperator::FromPacked(std::move(matrix)));
    return std::make_unique<CpuMatrix>(std::move(op));
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
  absl::StatusOr<std::unique_ptr<KvStorage>> AllocateKv(const KvShape& shape) override;

  void Write(absl::Span<const float> values, DeviceBuffer& buffer) override {
    std::copy(values.begin(), values.end(), Cpu(buffer).row(0));
  }
  absl::Span<const float> Read(const DeviceBuffer& buffer, size_t rows) override {
    return {Cpu(buffer).row(0), rows * buffer.cols()};
  }

  void Embed(const DeviceMatrix& table, absl::Span<const int32_t> tokens,
             DeviceBuffer& out) override;
  void Norm(const DeviceBuffer& x, absl::Span<const uint32_t> rows, const DeviceVector& weight,
            float eps, DeviceBuffer& out) override;
  void Linear(absl::Span<const DeviceMatrix* const> weights,
              absl::Span<const DeviceVector* const> biases, size_t n, DeviceBuffer& x,
              DeviceBuffer& y) override;
  void LinearAdd(const DeviceMatrix& weight, size_t n, DeviceBuffer& x, DeviceBuffer& scratch,
                 DeviceBuffer& residual) override;
  void GatedLinear(const DeviceMatrix& gate, const DeviceMatrix& up, size_t n, DeviceBuffer& x,
                   DeviceBuffer& scratch, DeviceBuffer& out) override;
  void RotateAndStore(const RaggedBatch& batch, const AttentionParameters& attention,
                      uint32_t layer, const DeviceBuffer& angles, DeviceBuffer& qkv,
                      KvStorage& kv) override;
  void Attend(const RaggedBatch& batch, const AttentionParameters& attention, uint32_t layer,
              const DeviceBuffer& qkv, const KvStorage& kv, DeviceBuffer& out) override;

 private:
  // Makes x's first n rows readable for products, quantized when one of `weights` wants that.
  const cpu::Activations& Prepare(absl::Span<const DeviceMatrix* const> weights, size_t n,
                                  CpuBuffer& x);
  // Calls body on row ranges of a matrix (or several, stacked) with `rows` rows.
  void ForRows(size_t rows, ThreadTeam::Body body) {
    const size_t claims = static_cast<size_t>(team_.size()) * kClaimsPerWorker;
    const size_t grain = ((rows + claims - 1) / claims + kRowTile - 1) / kRowTile * kRowTile;
    team_.ParallelFor(rows, grain, body);
  }

  ThreadTeam& team_;
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

void CpuBackend::Embed(const DeviceMatrix& table, absl::Span<const int32_t> tokens,
                       DeviceBuffer& out) {
  CpuBuffer& rows = Cpu(out);
  team_.ParallelFor(tokens.size(), kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t)
      Op(table).DecodeRow(static_cast<uint64_t>(tokens[t]), rows.row(t));
  });
}

void CpuBackend::Norm(const DeviceBuffer& x, absl::Span<const uint32_t> rows,
                      const DeviceVector& weight, float eps, DeviceBuffer& out) {
  team_.ParallelFor(rows.size(), kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i)
      cpu::RmsNorm(Cpu(x).row(rows[i]), Data(weight), x.cols(), eps, Cpu(out).row(i));
  });
}

const cpu::Activations& CpuBackend::Prepare(absl::Span<const DeviceMatrix* const> weights, size_t n,
                                            CpuBuffer& x) {
  const bool quantize = std::any_of(weights.begin(), weights.end(), [](const DeviceMatrix* weight) {
    return Op(*weight).needs_quantized_activations();
  });
  x.activations().Resize(n, x.cols(), quantize);
  team_.ParallelFor(n, kTokenGrain, [&](size_t begin, size_t end, int) {
    for (size_t t = begin; t < end; ++t) x.activations().SetRow(t, x.row(t));
  });
  return x.activations();
}

void CpuBackend::Linear(absl::Span<const DeviceMatrix* const> weights,
                        absl::Span<const DeviceVector* const> biases, size_t n, DeviceBuffer& x,
                        DeviceBuffer& y) {
  const cpu::Activations& input = Prepare(weights, n, Cpu(x));
  const size_t stride = y.cols();
  // Row r of the stacked matrix is column r of y; a range may straddle matrices.
  ForRows(stride, [&](size_t begin, size_t end, int) {
    size_t first = 0;  // of matrix m in the stack
    for (size_t m = 0; m < weights.size(); first += weights[m]->rows(), ++m) {
      const size_t from = std::max(begin, first);
      const size_t to = std::min<size_t>(end, first + weights[m]->rows());
      if (from >= to) continue;
      Op(*weights[m]).Multiply(input, from - first, to - first, Cpu(y).row(0) + first, stride);
      if (m >= biases.size() || biases[m] == nullptr) continue;
      for (size_t t = 0; t < n; ++t)
        cpu::Add(Cpu(y).row(t) + from, Data(*biases[m]) + (from - first), to - from);
    }
  });
}

void CpuBackend::LinearAdd(const DeviceMatrix& weight, size_t n, DeviceBuffer& x,
                           DeviceBuffer& scratch, DeviceBuffer& residual) {
  const cpu::Activations& input = Prepare({&weight}, n, Cpu(x));
  ForRows(weight.rows(), [&](size_t begin, size_t end, int) {
    Op(weight).Multiply(input, begin, end, Cpu(scratch).row(0), scratch.cols());
    for (size_t t = 0; t < n; ++t)
      cpu::Add(Cpu(residual).row(t) + begin, Cpu(scratch).row(t) + begin, end - begin);
  });
}

void CpuBackend::GatedLinear(const DeviceMatrix& gate, const DeviceMatrix& up, size_t n,
                             DeviceBuffer& x, DeviceBuffer& scratch, DeviceBuffer& out) {
  const cpu::Activations& input = Prepare({&gate, &up}, n, Cpu(x));
  const size_t rows = gate.rows();
  ForRows(rows, [&](size_t begin, size_t end, int) {
    Op(gate).Multiply(input, begin, end, Cpu(scratch).row(0), scratch.cols());
    Op(up).Multiply(input, begin, end, Cpu(scratch).row(0) + rows, scratch.cols());
    for (size_t t = 0; t < n; ++t) {
      const float* products = Cpu(scratch).row(t);
      cpu::SwiGlu(products + begin, products + rows + begin, end - begin, Cpu(out).row(t) + begin);
    }
  });
}

void CpuBackend::RotateAndStore(const RaggedBatch& batch, const AttentionParameters& attention,
                                uint32_t layer, const DeviceBuffer& angles, DeviceBuffer& qkv,
                                KvStorage& kv) {
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
      const size_t slot = position % block_tokens * cache.token_bytes();
      for (uint32_t h = 0; h < attention.heads; ++h, q += dim) {
        if (attention.q_norm) cpu::RmsNorm(q, Data(*attention.q_norm), dim, attention.norm_eps, q);
        cpu::Rope(q, cos, sin, dim);
      }
      for (uint32_t h = 0; h < attention.kv_heads; ++h, k += dim, v += dim) {
        if (attention.k_norm) cpu::RmsNorm(k, Data(*attention.k_norm), dim, attention.norm_eps, k);
        cpu::Rope(k, cos, sin, dim);
        cpu::StoreKv(k, dim, cache.type(), cache.keys(layer, block, h) + slot);
        cpu::StoreKv(v, dim, cache.type(), cache.values(layer, block, h) + slot);
      }
    }
  });
}

void CpuBackend::Attend(const RaggedBatch& batch, const AttentionParameters& attention,
                        uint32_t layer, const DeviceBuffer& qkv, const KvStorage& kv,
                        DeviceBuffer& out) {
  const auto& cache = static_cast<const CpuKvStorage&>(kv);
  const size_t dim = attention.head_dim;
  const size_t group = attention.heads / attention.kv_heads;  // query heads per kv head
  const uint32_t block_tokens = kv.shape().block_tokens;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  // One item is a row and a kv head, with the query heads that read it.
  const auto attend = [&](size_t begin, size_t end, int) {
    std::vector<const std::byte*> keys;
    std::vector<const std::byte*> values;
    std::vector<cpu::AttentionQuery> queries;
    for (size_t item = begin; item < end; ++item) {
      const size_t t = item / attention.kv_heads;
      const auto head = static_cast<uint32_t>(item % attention.kv_heads);
      const size_t length = size_t{batch.positions()[t]} + 1;
      const size_t blocks = (length + block_tokens - 1) / block_tokens;
      keys.clear();
      values.clear();
      for (int32_t block : batch.block_table(t).subspan(0, blocks)) {
        keys.push_back(cache.keys(layer, block, head));
        values.push_back(cache.values(layer, block, head));
      }
      queries.clear();
      for (size_t h = head * group; h < (head + 1) * group; ++h) {
        queries.push_back({Cpu(qkv).row(t) + h * dim, Cpu(out).row(t) + h * dim, length});
      }
      cpu::Attend(queries, keys, values, block_tokens, cache.token_bytes(), cache.type(), dim,
                  scale);
    }
  };
  const size_t items = batch.size() * attention.kv_heads;
  const auto longest =
      size_t{*std::max_element(batch.positions().begin(), batch.positions().end())} + 1;
  const size_t grain = std::max<size_t>(1, kAttentionGrainWork / (longest * group * dim * 2));
  team_.ParallelFor(items, grain, attend);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(ThreadTeam& team) {
  QL_RETURN_IF_ERROR(cpu::RequireSupportedCpu());
  return std::make_unique<CpuBackend>(team);
}

}  // namespace quantloom
