#include "kernels/cuda/device/row_formulas.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    AddRows(float* x, uint32_t x_stride, const float* y, uint32_t y_stride, uint32_t cols) {
  const uint32_t c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= cols) return;
  x[static_cast<size_t>(blockIdx.x) * x_stride + c] +=
      y[static_cast<size_t>(blockIdx.x) * y_stride + c];
}

__global__ void __launch_bounds__(kThreads)
    SwiGluRows(const float* gate_up, uint32_t cols, float* out) {
  const uint32_t c = blockIdx.y * kThreads + threadIdx.x;
  if (c >= cols) return;
  const float* const row = gate_up + static_cast<size_t>(blockIdx.x) * 2 * cols;
  out[static_cast<size_t>(blockIdx.x) * cols + c] = Swiglu(row[c], row[cols + c]);
}

// A thread an element, rows in x.
dim3 Grid(uint32_t rows, uint32_t cols) { return dim3(rows, DivideUp(cols, kThreads)); }

}  // namespace

const char* Add(float* x, uint32_t x_stride, const float* y, uint32_t y_stride, uint32_t rows,
                uint32_t cols, Stream stream) {
  return LaunchKernel(Grid(rows, cols), kThreads, 0, stream, AddRows, x, x_stride, y, y_stride,
                      cols);
}

const char* SwiGlu(const float* gate_up, uint32_t rows, uint32_t cols, float* out, Stream stream) {
  return LaunchKernel(Grid(rows, cols), kThreads, 0, stream, SwiGluRows, gate_up, cols, out);
}

}  // namespace quantloom::cuda
