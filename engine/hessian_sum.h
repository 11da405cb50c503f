// Where a backend sums the Hessian of a linear layer's output error over calibration text: beside
// the activations, so that these need not leave the device.
//
// Thread-safety: the backend's.
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "core/rounding/hessian.h"
#include "engine/backend.h"

namespace quantloom {

class HessianSum {
 public:
  virtual ~HessianSum() = default;

  // Adds x x^T for each of the first `rows` rows of `x`, of the sum's size, as Hessian::Accumulate
  // does, to the bit. The backend's status() says what goes wrong.
  virtual void Add(const DeviceBuffer& x, size_t rows) = 0;
  // The sum on the host; this object is empty afterwards. Errors are status()'s.
  virtual absl::StatusOr<Hessian> Take() = 0;
};

}  // namespace quantloom
