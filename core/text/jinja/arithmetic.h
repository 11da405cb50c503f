// Python's arithmetic on template values, in 64-bit integers.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/budget.h"
#include "core/text/jinja/value.h"

namespace quantloom::jinja {

// left op right for + - * / // % **. INVALID_ARGUMENT for operands that do not fit, division by
// zero and integers beyond 64 bits.
absl::StatusOr<Value> Arithmetic(absl::string_view op, const Value& left, const Value& right,
                                 Budget& budget);

// -operand.
absl::StatusOr<Value> Negate(const Value& operand);

}  // namespace quantloom::jinja
