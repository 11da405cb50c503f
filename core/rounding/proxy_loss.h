// The proxy loss: what quantization does to a layer's outputs on its calibration inputs, to second
// order and relative to the outputs themselves.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "core/base/parallel.h"
#include "core/rounding/hessian.h"

namespace quantloom {

// tr((W - What) H (W - What)^T) / tr(W H W^T) in fp64; matrices column-major [cols, rows], cols =
// hessian.size(). 0 where the layer's outputs are all zero before and after; +infinity where they
// were zero and no longer are. The bits depend neither on threads nor on the SIMD target. 2 cols^2
// rows multiply-adds.
double ProxyLoss(const Hessian& hessian, absl::Span<const float> weights_t,
                 absl::Span<const float> decoded_t, uint64_t rows, ThreadTeam& team);

// What is known without a Hessian: sum_c h_c |w_c - what_c|^2 / sum_c h_c |w_c|^2 over columns c, h
// their `importance` [cols], all alike where it is empty. 0 where the denominator is.
double RelativeError(absl::Span<const float> weights_t, absl::Span<const float> decoded_t,
                     uint64_t rows, absl::Span<const float> importance);

}  // namespace quantloom
