// Arguments of a call, a filter or a test, and their matching with parameter names.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/value.h"

namespace quantloom::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;

  // One optional value for each parameter, in their order. INVALID_ARGUMENT for too many arguments,
  // unknown keywords and parameters given twice.
  using Bound = std::vector<std::optional<Value>>;
  absl::StatusOr<Bound> Bind(std::initializer_list<absl::string_view> parameters) const;
};

// The argument as a type, or `fallback` when it is missing or none. INVALID_ARGUMENT for another
// type.
absl::StatusOr<std::string> TextOr(const std::optional<Value>& argument,
                                   absl::string_view fallback);
absl::StatusOr<int64_t> IntegerOr(const std::optional<Value>& argument, int64_t fallback);
inline bool TruthOr(const std::optional<Value>& argument, bool fallback) {
  return argument.has_value() ? argument->truthy() : fallback;
}

}  // namespace quantloom::jinja
