// Events of a job as a quantizer sends them.
#pragma once

#include <cstdint>

#include "quantloom/v1/quantization.pb.h"

namespace quantloom::cli {

inline constexpr char kJobName[] = "job-7f3a09c2d41b";

// Event `sequence` of a job of kJobName: RUNNING, encoding tensor `sequence` of 100.
v1::QuantizeEvent EncodingEvent(uint64_t sequence);

// The same in another state: with a result and quality for SUCCEEDED, an error for FAILED.
v1::QuantizeEvent EventIn(v1::JobState state, uint64_t sequence);

}  // namespace quantloom::cli
