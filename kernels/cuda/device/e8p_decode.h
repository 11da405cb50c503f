// Decoding of QuIP#'s vectors (e8p_image.h) in registers, to int8 in quarters.
//
// Integer operations per vector of 8 weights: table index 2, signs 2, shift 2, bytes 3, and 7 that
// four vectors share for their parities: 1.34 a weight. Besides a load from shared memory and two
// multiply-adds. 3 bits add 0.25 and a load, 4 bits as much again.
#pragma once

#include "kernels/cuda/device/primitives.h"
#include "kernels/cuda/views.h"

namespace quantloom::cuda {

// Four vectors of a row: their codes.
struct E8pVectors {
  uint32_t indices;
  uint32_t signs;   // bit 4 i + v: coordinate i of vector v is negated
  uint32_t shifts;  // bit v, and what does not matter above

  __device__ __forceinline__ void Load(uint32_t index_word, uint32_t sign_word) {
    indices = index_word;
    uint32_t parities = sign_word ^ sign_word >> 16;
    parities ^= parities >> 8;
    parities ^= parities >> 4;
    shifts = parities;
    signs = sign_word ^ (parities & 0xFu);
  }

  // Vector v, constant once loops are unrolled: coordinates 0..3 and 4..7.
  __device__ __forceinline__ void Decode(const uint32_t* selectors, uint32_t v, uint32_t& low,
                                         uint32_t& high) const {
    const uint32_t entry = selectors[indices >> (8 * v) & 0xFFu];
    const uint32_t flips = v <= 2 ? signs << (2 - v) : signs >> 1;
    const uint32_t selector = entry ^ (flips & 0x44444444u);
    // Magnitudes 2, 6, 10 and their negatives, less one, or plus one.
    const uint32_t up = shifts >> v & 1u;
    const uint32_t positive = up * 0x00020202u + 0x00090501u;
    const uint32_t negative = up * 0x00020202u + 0x00F5F9FDu;
    low = __byte_perm(positive, negative, selector & 0xFFFFu);
    high = __byte_perm(positive, negative, selector >> 16);
  }
};

}  // namespace quantloom::cuda
