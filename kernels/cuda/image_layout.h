// The arrays of a MatrixImage: laid out first, then filled in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/matrix_image.h"

namespace quantloom::cuda {

class ImageLayout {
 public:
  template <typename T>
  class Array {
   public:
    explicit Array(size_t offset) : offset_(offset) {}
    T* In(MatrixImage& image) const { return reinterpret_cast<T*>(image.bytes.data() + offset_); }

   private:
    size_t offset_;
  };

  template <typename T>
  Array<T> Add(size_t count) {
    const size_t offset = (size_ + kImageAlignment - 1) / kImageAlignment * kImageAlignment;
    size_ = offset + count * sizeof(T);
    return Array<T>(offset);
  }

  // Zeros, as many as the arrays take.
  std::vector<uint8_t> Allocate() const { return std::vector<uint8_t>(size_); }

 private:
  size_t size_ = 0;
};

}  // namespace quantloom::cuda
