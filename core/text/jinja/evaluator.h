// Runs a parsed template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/jinja/ast.h"
#include "core/text/jinja/value.h"

namespace quantloom::jinja {

struct EvaluationLimits {
  size_t max_steps;
  size_t max_output_bytes;
  size_t max_depth;  // of macro calls inside macro calls
};

// The text that `statements` make with `variables` set. All strings must be valid UTF-8.
// INVALID_ARGUMENT with line and column for errors in the template, what raise_exception says
// included; RESOURCE_EXHAUSTED when a limit is passed. Thread-safe.
absl::StatusOr<std::string> Evaluate(const std::vector<Statement>& statements,
                                     std::vector<std::pair<std::string, Value>> variables,
                                     const EvaluationLimits& limits);

}  // namespace quantloom::jinja
