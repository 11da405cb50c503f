#include "core/text/jinja/arguments.h"

#include "absl/strings/str_cat.h"

namespace quantloom::jinja {

absl::StatusOr<Arguments::Bound> Arguments::Bind(
    std::initializer_list<absl::string_view> parameters) const {
  if (positional.size() > parameters.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("takes at most ", parameters.size(), " arguments, not ", positional.size()));
  }
  Bound bound(positional.begin(), positional.end());
  bound.resize(parameters.size());
  for (const auto& [name, value] : keywords) {
    size_t i = 0;
    for (const absl::string_view parameter : parameters) {
      if (parameter == name) break;
      ++i;
    }
    if (i == parameters.size()) {
      return absl::InvalidArgumentError(absl::StrCat("has no argument '", name, "'"));
    }
    if (bound[i].has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("the argument '", name, "' is given twice"));
    }
    bound[i] = value;
  }
  return bound;
}

absl::StatusOr<std::string> TextOr(const std::optional<Value>& argument,
                                   absl::string_view fallback) {
  if (!argument.has_value() || argument->is_none()) return std::string(fallback);
  if (argument->is_string()) return argument->text();
  return absl::InvalidArgumentError(
      absl::StrCat("an argument must be a string, not a ", argument->type_name()));
}

absl::StatusOr<int64_t> IntegerOr(const std::optional<Value>& argument, int64_t fallback) {
  if (!argument.has_value() || argument->is_none()) return fallback;
  if (argument->is_int() || argument->is_bool()) return argument->integer();
  return absl::InvalidArgumentError(
      absl::StrCat("an argument must be an integer, not a ", argument->type_name()));
}

}  // namespace quantloom::jinja
