#include "engine/cuda/cuda_row_chains.h"

namespace quantloom {

void CudaRowChains::Launch(const cuda::RowChain& chain) {
  if (!context_.ok() || chain.rows == 0) return;
  context_.Note(context_.kernels().run_row_chain(chain, context_.stream()));
}

void CudaRowChains::Settle() {
  if (!waiting_.has_value()) return;
  Launch(*waiting_);
  waiting_.reset();
}

void CudaRowChains::Wait(const cuda::RowChain& chain, const CudaBuffer& made) {
  waiting_ = chain;
  made_ = &made;
  if (!in_step_) Settle();
}

cuda::RowChain CudaRowChains::Take(const CudaBuffer& x, size_t n) {
  if (waiting_.has_value() && made_ == &x && waiting_->rows == n) {
    const cuda::RowChain chain = *waiting_;
    waiting_.reset();
    return chain;
  }
  Settle();
  return {
      .rows = static_cast<uint32_t>(n), .cols = x.stride(), .x = x.data(), .x_stride = x.stride()};
}

void CudaRowChains::AddProduct(const CudaTransform* output, size_t n, const CudaBuffer& product,
                               const CudaBuffer& sum) {
  Settle();
  cuda::RowChain chain = {.rows = static_cast<uint32_t>(n),
                          .cols = sum.stride(),
                          .x = product.data(),
                          .x_stride = product.stride(),
                          .sum = sum.data(),
                          .sum_stride = sum.stride()};
  if (output != nullptr) chain.output = output->view;
  Wait(chain, sum);
}

void CudaRowChains::Norm(const CudaBuffer& x, const uint32_t* rows, size_t n, const float* weight,
                         float eps, const CudaBuffer& out) {
  // What is written to a buffer of its own, or gathered from one, is not what a norm begins with.
  if (rows != nullptr || (waiting_.has_value() && waiting_->out != nullptr)) Settle();
  cuda::RowChain chain = Take(x, n);
  chain.gather = rows;
  chain.norm = weight;
  chain.norm_eps = eps;
  chain.out = out.data();
  chain.out_stride = out.stride();
  Wait(chain, out);
}

void CudaRowChains::SwiGlu(const CudaBuffer& gate_up, size_t n, const CudaBuffer& out) {
  Settle();
  Wait({.rows = static_cast<uint32_t>(n),
        .cols = out.stride(),
        .x = gate_up.data(),
        .x_stride = gate_up.stride(),
        .swiglu = true,
        .out = out.data(),
        .out_stride = out.stride()},
       out);
}

void CudaRowChains::Prepare(const CudaBuffer& x, size_t n, const CudaTransform* input,
                            const cuda::Activations& activations) {
  cuda::RowChain chain = Take(x, n);
  if (input != nullptr) chain.input = input->view;
  chain.activations = activations;
  Launch(chain);
}

}  // namespace quantloom
