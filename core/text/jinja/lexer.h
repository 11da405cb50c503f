// Cuts a template into tokens, with the white space control that chat templates are written for:
// trim_blocks and lstrip_blocks on, as Hugging Face's transformers sets them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/text/jinja/position.h"

namespace quantloom::jinja {

struct Token {
  enum class Kind {
    kText,  // template text between tags
    kBlockBegin,
    kBlockEnd,
    kOutputBegin,
    kOutputEnd,
    kName,
    kString,   // `text` is its value, escapes decoded
    kInteger,  // in `integer`
    kFloat,    // in `real`
    kOperator,
    kEnd,
  };
  Kind kind;
  Position position;
  std::string text;
  int64_t integer = 0;
  double real = 0;
};

// The last token is kEnd. INVALID_ARGUMENT with line and column.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

}  // namespace quantloom::jinja
