// Where in a template something stands, and errors that say so.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/status.h"

namespace quantloom::jinja {

struct Position {
  uint32_t line = 1;    // from 1
  uint32_t column = 1;  // from 1, in characters
};

inline absl::Status At(Position position, const absl::Status& status) {
  return Annotate(status, absl::StrCat("line ", position.line, ", column ", position.column));
}

inline absl::Status ErrorAt(Position position, absl::string_view message) {
  return At(position, absl::InvalidArgumentError(message));
}

}  // namespace quantloom::jinja
