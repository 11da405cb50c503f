// Parses a template.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/ast.h"

namespace quantloom::jinja {

// INVALID_ARGUMENT with line and column for what is malformed, unknown (filters, tests, statements)
// or nested too deeply. `source` must be valid UTF-8.
absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source);

}  // namespace quantloom::jinja
