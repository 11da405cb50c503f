#include "cli/local_text.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cli/units.h"
#include "cli/utf8.h"

namespace quantloom::cli {
namespace {

constexpr size_t kInlineTextBytes = size_t{2} << 20;

}  // namespace

absl::StatusOr<std::string> ReadText(const std::string& path, size_t max_bytes) {
  const bool standard_input = path == "-";
  const std::string name = standard_input ? "standard input" : absl::StrCat("'", path, "'");
  const auto close = [&](FILE* stream) {
    if (!standard_input) fclose(stream);
  };
  const std::unique_ptr<FILE, decltype(close)> file(
      standard_input ? stdin : fopen(path.c_str(), "rbe"), close);
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", name));
  std::string text;
  for (char block[1 << 16]; const size_t bytes = fread(block, 1, sizeof block, file.get());) {
    text.append(block, bytes);
    if (text.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(name, " has more than ", FormatGrouped(max_bytes), " bytes"));
    }
  }
  if (ferror(file.get()) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", name));
  if (!IsUtf8(text)) return absl::InvalidArgumentError(absl::StrCat(name, " is not UTF-8 text"));
  return text;
}

absl::StatusOr<std::string> ReadInlineText(const std::string& path,
                                           const std::string& alternative) {
  absl::StatusOr<std::string> text = ReadText(path, kInlineTextBytes);
  if (!absl::IsResourceExhausted(text.status())) return text;
  return absl::InvalidArgumentError(
      absl::StrCat(text.status().message(),
                   ", the most that can be sent; put it under the quantizer's source root and use ",
                   alternative));
}

bool HasArgumentOrInput(const std::string& argument) {
  return !argument.empty() || isatty(STDIN_FILENO) == 0;
}

absl::StatusOr<std::string> ArgumentOrInput(const std::string& argument, const std::string& what) {
  if (!argument.empty() && argument != "-") {
    if (!IsUtf8(argument)) return absl::InvalidArgumentError(absl::StrCat(what, " is not UTF-8"));
    return argument;
  }
  absl::StatusOr<std::string> text = ReadText("-", std::numeric_limits<size_t>::max());
  if (text.ok() && !text->empty() && text->back() == '\n') text->pop_back();
  return text;
}

}  // namespace quantloom::cli
