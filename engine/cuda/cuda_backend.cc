#include "engine/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "engine/cuda/cuda_batch.h"
#include "engine/cuda/cuda_buffer.h"
#include "engine/cuda/cuda_context.h"
#include "engine/cuda/cuda_hessian.h"
#include "engine/cuda/cuda_matrix.h"
#include "engine/cuda/cuda_products.h"
#include "engine/cuda/cuda_row_chains.h"
#include "engine/cuda/cuda_storage.h"
#include "engine/cuda/cuda_transform.h"
#include "engine/cuda/cuda_trellis_search.h"

namespace quantloom {
namespace {

CudaBatch& Cuda(DeviceBatch& batch) { return static_cast<CudaBatch&>(batch); }
const CudaBatch& Cuda(const DeviceBatch& batch) { return static_cast<const CudaBatch&>(batch); }

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<CudaContext> context, ThreadTeam& team,
              std::unique_ptr<cuda::DenseLibrary> dense)
      : context_(std::move(context)),
        transforms_(*context_),
        chains_(*context_),
        trellis_search_(*context_),
        products_(*context_, chains_, std::move(dense)),
        team_(team) {}

  absl::Status status() const override { return context_->status(); }
  uint64_t memory_bytes() const override { return context_->memory_bytes(); }
  uint64_t decoded_matrices() const override { return decoded_matrices_; }
  TrellisSearch* trellis_search() override { return &trellis_search_; }

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromPacked(
      std::unique_ptr<PackedMatrix> matrix, MatrixUse use) override;
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> MatrixFromDense(
      uint64_t rows, uint64_t cols, DType dtype, absl::Span<const uint8_t> bytes) override;
  std::unique_ptr<DeviceVector> Vector(absl::Span<const float> values) override;
  std::unique_ptr<DeviceBuffer> Buffer(size_t max_rows, size_t cols) override {
    return std::make_unique<CudaBuffer>(
        max_rows, cols, context_->OrNote(context_->Allocate(CudaBuffer::Bytes(max_rows, cols))));
  }
  std::unique_ptr<DeviceBatch> Batch(size_t max_rows, size_t max_selected) override {
    return std::make_unique<CudaBatch>(*context_, max_rows, max_selected);
  }
  absl::StatusOr<std::unique_ptr<KvStorage>> AllocateKv(const KvShape& shape) override;
  KvElement exact_kv_element() const override { return KvElement::kF16; }
  absl::StatusOr<std::unique_ptr<HessianSum>> NewHessianSum(uint64_t n) override;

  void CopyKvBlock(int32_t from, int32_t to, KvStorage& kv) override;
  void Write(absl::Span<const float> values, DeviceBuffer& buffer) override;
  absl::Span<const float> Read(const DeviceBuffer& buffer, size_t rows) override;

  void SetBatch(const RaggedBatch& batch, DeviceBatch& to) override { Cuda(to).Set(batch); }
  void Select(absl::Span<const uint32_t> rows, DeviceBatch& batch) override {
    Cuda(batch).Select(rows);
  }
  void RunStep(DeviceBatch& batch, absl::FunctionRef<void()> operators) override {
    Cuda(batch).RunStep([&] {
      chains_.BeginStep();
      operators();
      chains_.EndStep();
    });
  }
  void SetChoices(absl::Span<const TokenChoice> choices, DeviceBatch& batch) override {
    Cuda(batch).SetChoices(choices);
  }
  bool runs_ahead() const override { return true; }
  absl::Span<const ChosenToken> FinishStep(DeviceBatch& batch) override {
    return Cuda(batch).FinishStep();
  }
  absl::Duration StepTime(const DeviceBatch& batch) override { return Cuda(batch).StepTime(); }

  void Embed(const DeviceMatrix& table, const DeviceBatch& batch, DeviceBuffer& out) override;
  void Norm(const DeviceBuffer& x, size_t n, const DeviceVector& weight, float eps,
            DeviceBuffer& out) override {
    NormRows(x, nullptr, n, weight, eps, out);
  }
  void NormSelected(const DeviceBuffer& x, const DeviceBatch& batch, const DeviceVector& weight,
                    float eps, DeviceBuffer& out) override {
    NormRows(x, Cuda(batch).selected(), batch.selected_rows(), weight, eps, out);
  }
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
  const cuda::KernelTable& kernels() const { return context_->kernels(); }
  cuda::Stream stream() const { return context_->stream(); }
  bool ok() const { return context_->ok(); }

  void NormRows(const DeviceBuffer& x, const uint32_t* rows, size_t count,
                const DeviceVector& weight, float eps, DeviceBuffer& out);
  // Has memory for the whole buffer afterwards, except on failure.
  void Allocate(const CudaBuffer& buffer, CudaBuffer::Host& host);

  std::unique_ptr<CudaContext> context_;
  CudaTransforms transforms_;
  CudaRowChains chains_;
  CudaTrellisSearch trellis_search_;
  CudaProducts products_;
  ThreadTeam& team_;
  uint64_t decoded_matrices_ = 0;
};

// --- Memory

absl::StatusOr<std::unique_ptr<DeviceMatrix>> CudaBackend::MatrixFromPacked(
    std::unique_ptr<PackedMatrix> matrix, MatrixUse use) {
  QL_ASSIGN_OR_RETURN(
      const cuda::MatrixImage image,
      cuda::PackedMatrixImage(
          *matrix, use == MatrixUse::kRows ? cuda::MatrixUse::kRows : cuda::MatrixUse::kProduct,
          team_));
  // An embedding is fp16 or int8 in any case: rows of other forms cannot be looked up.
  if (use != MatrixUse::kRows && std::holds_alternative<cuda::HalfMatrixView>(image.view)) {
    ++decoded_matrices_;
  }
  QL_RETURN_IF_ERROR(products_.Reserve(matrix->cols()));
  return CudaMatrix::Create(image, matrix->incoherence(), *context_, transforms_);
}

absl::StatusOr<std::unique_ptr<DeviceMatrix>> CudaBackend::MatrixFromDense(
    uint64_t rows, uint64_t cols, DType dtype, absl::Span<const uint8_t> bytes) {
  QL_ASSIGN_OR_RETURN(const cuda::MatrixImage image,
                      cuda::DenseMatrixImage(rows, cols, dtype, bytes, team_));
  QL_RETURN_IF_ERROR(products_.Reserve(cols));
  return CudaMatrix::Create(image, nullptr, *context_, transforms_);
}

std::unique_ptr<DeviceVector> CudaBackend::Vector(absl::Span<const float> values) {
  CudaMemory memory;
  if (ok()) {
    absl::StatusOr<CudaMemory> uploaded = context_->Upload(BytesOf(values));
    context_->Note(uploaded.status());
    if (uploaded.ok()) memory = *std::move(uploaded);
  }
  return std::make_unique<CudaVector>(values.size(), std::move(memory));
}

absl::StatusOr<std::unique_ptr<KvStorage>> CudaBackend::AllocateKv(const KvShape& shape) {
  if (shape.element != KvElement::kF16) {
    return absl::UnimplementedError("on CUDA devices the KV cache is fp16");
  }
  if (shape.head_dim % 8 != 0 || shape.head_dim > cuda::kMaxHeadDim) {
    return absl::UnimplementedError(absl::StrCat("heads of ", shape.head_dim,
                                                 " elements: CUDA kernels take multiples of 8 up "
                                                 "to ",
                                                 cuda::kMaxHeadDim));
  }
  auto memory = context_->Allocate(shape.blocks * shape.block_bytes());
  if (!memory.ok()) return Annotate(memory.status(), "KV cache");
  return std::make_unique<CudaKvStorage>(shape, *std::move(memory));
}

absl::StatusOr<std::unique_ptr<HessianSum>> CudaBackend::NewHessianSum(uint64_t n) {
  auto memory = context_->Allocate(n * n * sizeof(double));
  if (!memory.ok()) return Annotate(memory.status(), "Hessian");
  return std::make_unique<CudaHessianSum>(*context_, n, *std::move(memory));
}

void CudaBackend::CopyKvBlock(int32_t from, int32_t to, KvStorage& kv) {
  if (!ok()) return;
  const auto& cache = static_cast<const CudaKvStorage&>(kv);
  context_->Note(context_->runtime().CopyOnDevice(cache.block(to), cache.block(from),
                                                  kv.shape().block_bytes(), stream()));
}

void CudaBackend::Allocate(const CudaBuffer& buffer, CudaBuffer::Host& host) {
  if (!host.memory.empty()) return;
  host.memory = context_->OrNote(
      context_->AllocatePinned(CudaBuffer::Bytes(buffer.max_rows(), buffer.cols())));
  host.copied = context_->OrNote(context_->CreateEvent());
}

void CudaBackend::Write(absl::Span<const float> values, DeviceBuffer& buffer) {
  if (!ok() || values.empty()) return;
  CudaBuffer::Host& host = Cuda(buffer).next_source();
  Allocate(Cuda(buffer), host);
  if (ok()) context_->Note(context_->runtime().Wait(host.copied.get()));
  if (!ok()) return;
  std::copy(values.begin(), values.end(), host.memory.as<float>());
  context_->Note(context_->runtime().CopyToDevice(Cuda(buffer).data(), host.memory.as<float>(),
                                                  values.size() * sizeof(float), stream()));
  if (ok()) context_->Note(context_->runtime().Record(host.copied.get(), stream()));
}

absl::Span<const float> CudaBackend::Read(const DeviceBuffer& buffer, size_t rows) {
  const size_t count = rows * buffer.cols();
  if (!ok()) return {};
  Allocate(Cuda(buffer), Cuda(buffer).host());
  auto* const host = Cuda(buffer).host().memory.as<float>();
  if (ok() && count > 0) {
    context_->Note(
        context_->runtime().CopyToHost(host, Cuda(buffer).data(), count * sizeof(float), stream()));
  }
  if (ok()) context_->Note(context_->runtime().Synchronize(stream()));
  if (!ok()) return {};
  return {host, count};
}

// --- Operators

void CudaBackend::Embed(const DeviceMatrix& table, const DeviceBatch& batch, DeviceBuffer& out) {
  chains_.Settle();
  if (!ok()) return;
  const CudaMatrix& matrix = Cuda(table);
  const CudaBuffer& rows = Cuda(out);
  context_->Note(kernels().embed_rows(matrix.view(), Cuda(batch).view().tokens,
                                      Cuda(batch).chosen(), static_cast<uint32_t>(batch.rows()),
                                      static_cast<uint32_t>(table.cols()), rows.data(),
                                      rows.stride(), stream()));
  if (matrix.row() == nullptr) return;
  products_.Transform(*matrix.row(), rows.data(), rows.stride(), batch.rows(), rows.data(),
                      rows.stride());
}

void CudaBackend::NormRows(const DeviceBuffer& x, const uint32_t* rows, size_t count,
                           const DeviceVector& weight, float eps, DeviceBuffer& out) {
  if (!ok() || count == 0) return;
  if (CudaRowChains::Takes(x.cols())) {
    return chains_.Norm(Cuda(x), rows, count, Data(weight), eps, Cuda(out));
  }
  chains_.Settle();
  context_->Note(kernels().rms_norm(Cuda(x).data(), rows, static_cast<uint32_t>(count),
                                    Cuda(x).stride(), Data(weight), eps, Cuda(out).data(),
                                    stream()));
}

void CudaBackend::Linear(absl::Span<const DeviceMatrix* const> weights,
                         absl::Span<const DeviceVector* const> biases, size_t n, DeviceBuffer& x,
                         DeviceBuffer& y) {
  products_.Multiply(weights, n, x, Cuda(y).data(), Cuda(y).stride());
  products_.FinishOutputs(weights, biases, n, Cuda(y).data(), Cuda(y).stride());
}

void CudaBackend::LinearAdd(const DeviceMatrix& weight, size_t n, DeviceBuffer& x,
                            DeviceBuffer& scratch, DeviceBuffer& residual) {
  const CudaBuffer& product = Cuda(scratch);
  const CudaBuffer& sum = Cuda(residual);
  products_.Multiply({&weight}, n, x, product.data(), product.stride());
  if (CudaRowChains::Takes(sum.cols())) {
    return chains_.AddProduct(Cuda(weight).output(), n, product, sum);
  }
  products_.FinishOutputs({&weight}, {}, n, product.data(), product.stride());
  if (!ok()) return;
  context_->Note(kernels().add(sum.data(), sum.stride(), product.data(), product.stride(),
                               static_cast<uint32_t>(n), static_cast<uint32_t>(weight.rows()),
                               stream()));
}

void CudaBackend::GatedLinear(const DeviceMatrix& gate, const DeviceMatrix& up, size_t n,
                              DeviceBuffer& x, DeviceBuffer& scratch, DeviceBuffer& out) {
  const CudaBuffer& gate_up = Cuda(scratch);
  products_.Multiply({&gate, &up}, n, x, gate_up.data(), gate_up.stride());
  products_.FinishOutputs({&gate, &up}, {}, n, gate_up.data(), gate_up.stride());
  if (CudaRowChains::Takes(out.cols())) return chains_.SwiGlu(gate_up, n, Cuda(out));
  if (!ok()) return;
  context_->Note(kernels().swiglu(gate_up.data(), static_cast<uint32_t>(n),
                                  static_cast<uint32_t>(gate.rows()), Cuda(out).data(), stream()));
}

void CudaBackend::RotateAndStore(const DeviceBatch& batch, const AttentionParameters& attention,
                                 uint32_t layer, const DeviceBuffer& angles, DeviceBuffer& qkv,
                                 KvStorage& kv) {
  chains_.Settle();
  if (!ok()) return;
  const cuda::RotaryParameters parameters = {
      .heads = attention.heads,
      .q_norm = attention.q_norm == nullptr ? nullptr : Data(*attention.q_norm),
      .k_norm = attention.k_norm == nullptr ? nullptr : Data(*attention.k_norm),
      .norm_eps = attention.norm_eps};
  context_->Note(kernels().rotate_and_store(
      Cuda(batch).view(), parameters, Cuda(angles).data(), Cuda(qkv).data(),
      static_cast<CudaKvStorage&>(kv).layer(layer), stream()));
}

void CudaBackend::Attend(DeviceBatch& device_batch, const AttentionParameters& attention,
                         uint32_t layer, const DeviceBuffer& qkv, const KvStorage& kv,
                         DeviceBuffer& out) {
  chains_.Settle();
  if (!ok()) return;
  CudaBatch& batch = Cuda(device_batch);
  cuda::AttentionArguments arguments = {
      .qkv = Cuda(qkv).data(),
      .heads = attention.heads,
      .scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim)),
      .out = Cuda(out).data()};
  if (batch.partitions() > 0) {
    arguments.partitions = batch.partitions();
    arguments.partials = batch.Partials(attention.heads, attention.head_dim);
  } else {
    const absl::Span<const cuda::AttentionTile> tiles =
        batch.Tiles(attention.heads / attention.kv_heads);
    arguments.tiles = tiles.empty() ? nullptr : tiles.data();
    arguments.tile_count = static_cast<uint32_t>(tiles.size());
  }
  if (!ok()) return;
  context_->Note(kernels().attend(batch.view(), static_cast<const CudaKvStorage&>(kv).layer(layer),
                                  arguments, stream()));
}

void CudaBackend::ChooseTokens(DeviceBuffer& logits, DeviceBatch& device_batch) {
  chains_.Settle();
  if (!ok()) return;
  const CudaBatch& batch = Cuda(device_batch);
  context_->Note(kernels().sample_tokens(
      Cuda(logits).data(), static_cast<uint32_t>(batch.selected_rows()), Cuda(logits).stride(),
      batch.parameters(), batch.edits(), batch.chosen(), stream()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(
    std::unique_ptr<cuda::DeviceRuntime> runtime, const cuda::KernelTable& kernels,
    ThreadTeam& team, std::unique_ptr<cuda::DenseLibrary> dense) {
  QL_ASSIGN_OR_RETURN(auto context, CudaContext::Create(std::move(runtime), kernels));
  return CreateCudaBackend(std::move(context), team, std::move(dense));
}

std::unique_ptr<Backend> CreateCudaBackend(std::unique_ptr<CudaContext> context, ThreadTeam& team,
                                           std::unique_ptr<cuda::DenseLibrary> dense) {
  return std::make_unique<CudaBackend>(std::move(context), team, std::move(dense));
}

}  // namespace quantloom
