// Operators on rows between products, put together: while a step is launched, one waits for the
// operators after it that go on with its rows, and they become one kernel
// (kernels/cuda/row_chain.h) with the preparation of the next product's activations at its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/cuda/cuda_buffer.h"
#include "engine/cuda/cuda_context.h"
#include "engine/cuda/cuda_transform.h"
#include "kernels/cuda/row_chain.h"

namespace quantloom {

// Rows of at most kMostChainColumns. Errors are the context's.
class CudaRowChains {
 public:
  explicit CudaRowChains(CudaContext& context) : context_(context) {}

  // Whether a block can take such rows.
  static bool Takes(size_t cols) { return cols <= cuda::kMostChainColumns; }

  // Operators wait between these two alone: elsewhere buffers may be read, or freed, at any time.
  void BeginStep() { in_step_ = true; }
  void EndStep() {
    Settle();
    in_step_ = false;
  }
  // Launches what waits. Every other operator of a step does this first.
  void Settle();

  // sum[t] += transformed product[t]; `output` may be null.
  void AddProduct(const CudaTransform* output, size_t n, const CudaBuffer& product,
                  const CudaBuffer& sum);
  // out[i] = RMSNorm(x[i]) * weight, or of x[rows[i]] where `rows` is not null.
  void Norm(const CudaBuffer& x, const uint32_t* rows, size_t n, const float* weight, float eps,
            const CudaBuffer& out);
  // out[t] = silu(gate_up[t, first half]) * gate_up[t, second half].
  void SwiGlu(const CudaBuffer& gate_up, size_t n, const CudaBuffer& out);
  // Launches what waits for x's rows, or nothing, and transforms and prepares them; `input` may be
  // null.
  void Prepare(const CudaBuffer& x, size_t n, const CudaTransform* input,
               const cuda::Activations& activations);

 private:
  // The chain that makes x's first n rows, if one waits, or one that begins with them.
  cuda::RowChain Take(const CudaBuffer& x, size_t n);
  // `chain` leaves its rows in `made`.
  void Wait(const cuda::RowChain& chain, const CudaBuffer& made);
  void Launch(const cuda::RowChain& chain);

  CudaContext& context_;
  bool in_step_ = false;
  std::optional<cuda::RowChain> waiting_;
  const CudaBuffer* made_ = nullptr;  // by what waits
};

}  // namespace quantloom
