// Where the bits of several tensors go together.
#pragma once

#include <cstdint>
#include <functional>

#include "quantloom/v1/model.pb.h"

namespace quantloom::cli {

struct BitTotals {
  int tensors = 0;
  uint64_t weights = 0;
  quantloom::v1::Tensor bits;  // the bit fields, per weight of all of them; zero without weights
};

// Sums over the model's tensors that `wanted` accepts; each tensor counts as much as it has
// weights.
BitTotals TotalBits(const quantloom::v1::Model& model,
                    const std::function<bool(const quantloom::v1::Tensor&)>& wanted);

}  // namespace quantloom::cli
