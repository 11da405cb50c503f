// A packed model's quality against its source: from scored windows to figures, and to text.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "quantloom/v1/quantization.pb.h"

namespace quantloom::cli {

// The figures of all windows together, as quantization.proto defines them (Evaluate): those that a
// job's report has for the same windows. text_name and text_sha256 are left empty.
quantloom::v1::QualityMetrics Summarize(absl::Span<const quantloom::v1::EvaluationWindow> windows);

// Lines for people: what the quality was measured on, and the four figures.
void AddQuality(const quantloom::v1::QualityMetrics& quality,
                std::vector<std::pair<std::string, std::string>>& pairs);

// "2.341 linear layers, 3.912 all tensors".
std::string FormatBitsPerWeight(double linear, double all);

}  // namespace quantloom::cli
