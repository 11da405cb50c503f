// The CPU backend: kernels/cpu's operators on a ThreadTeam. Each operator is one parallel region; a
// decode step of one layer has five. Linear and its kin prepare several rows in a region of their
// own, and restore outputs in another where incoherence processing transformed a weight's.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "core/base/parallel.h"
#include "engine/backend.h"
#include "kernels/cpu/linear.h"

namespace quantloom {

// `team` must outlive the backend. `activations`: what products with packed matrices read, see
// cpu::LinearOperator::FromPacked. FAILED_PRECONDITION for a CPU without the needed instructions.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(
    ThreadTeam& team, std::optional<cpu::ActivationForm> activations = {});

}  // namespace quantloom
