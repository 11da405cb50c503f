// A source model's parameters in fp32, read from its file when asked for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/format/source_model.h"
#include "engine/decoder_layer.h"

namespace quantloom {

// Errors name the tensor. `source` and `backend` must outlive the object.
class SourceWeights final : public WeightSource {
 public:
  SourceWeights(const SourceModel& source, Backend& backend) : source_(source), backend_(backend) {}

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Matrix(const std::string& name, uint64_t rows,
                                                       uint64_t cols) override;
  absl::StatusOr<std::unique_ptr<DeviceVector>> Vector(const std::string& name,
                                                       uint64_t size) override;

 private:
  absl::StatusOr<std::vector<float>> Read(const std::string& name, uint64_t size);

  const SourceModel& source_;
  Backend& backend_;
};

}  // namespace quantloom
