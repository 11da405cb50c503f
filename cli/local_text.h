// Text that the user hands to a command: in a file, on standard input, or as an argument.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace quantloom::cli {

// The file's content, of at most `max_bytes`, as UTF-8; "-" is standard input. NOT_FOUND,
// PERMISSION_DENIED, RESOURCE_EXHAUSTED for more than `max_bytes`, INVALID_ARGUMENT for text that
// is not UTF-8; the message names the file.
absl::StatusOr<std::string> ReadText(const std::string& path, size_t max_bytes);

// Text that travels inside a request, for which the contract allows 2 MiB: errors of ReadText, and
// INVALID_ARGUMENT for more. `alternative` is the option that names a file under the quantizer's
// source root instead.
absl::StatusOr<std::string> ReadInlineText(const std::string& path, const std::string& alternative);

// Whether ArgumentOrInput has something to read: an argument, or a standard input that is not a
// terminal.
bool HasArgumentOrInput(const std::string& argument);

// An argument, or standard input when it is "-" or empty, less one newline at the end, which `echo`
// adds. INVALID_ARGUMENT for text that is not UTF-8; `what` names the argument.
absl::StatusOr<std::string> ArgumentOrInput(const std::string& argument, const std::string& what);

}  // namespace quantloom::cli
