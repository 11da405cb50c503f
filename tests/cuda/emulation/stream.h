// Streams of the emulation: work waits until somebody waits for it, so that who reads a result or
// overwrites an argument too early is found out.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace quantloom::cuda_emulation {

using Work = std::function<absl::Status()>;

// What a stream asks before it takes anything.
class DeviceHealth {
 public:
  virtual ~DeviceHealth() = default;
  // OK, or why every call now fails.
  virtual absl::Status Call() = 0;
};

}  // namespace quantloom::cuda_emulation

// CUDA's opaque type, for the emulation.
struct CUstream_st {
  explicit CUstream_st(quantloom::cuda_emulation::DeviceHealth& of_device) : health(of_device) {}

  // Takes work for later, or records it.
  absl::Status Submit(quantloom::cuda_emulation::Work work) {
    if (absl::Status status = health.Call(); !status.ok()) return status;
    if (capturing) {
      captured.push_back(std::move(work));
    } else {
      waiting.push_back(std::move(work));
    }
    return absl::OkStatus();
  }

  quantloom::cuda_emulation::DeviceHealth& health;
  std::deque<quantloom::cuda_emulation::Work> waiting;
  bool capturing = false;
  std::vector<quantloom::cuda_emulation::Work> captured;
};
