#include <algorithm>
#include <charconv>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/status.h"
#include "core/codec/codec.h"

namespace quantloom {
namespace {

constexpr size_t kMaxRecipeLength = 1024;

// Names and values are plain text, so that a recipe can stand in a log line, a metric's label or a
// file without quoting.
bool IsName(absl::string_view text) {
  return !text.empty() && absl::ascii_islower(text[0]) &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_';
         });
}

bool IsValue(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '+' || c == '-';
  });
}

absl::Status Malformed(absl::string_view recipe, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("recipe '", absl::CEscape(recipe), "': ", reason));
}

std::string Quoted(absl::string_view text) { return absl::StrCat("'", absl::CEscape(text), "'"); }

}  // namespace

absl::StatusOr<Recipe> Recipe::Parse(absl::string_view text) {
  if (text.size() > kMaxRecipeLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("recipe of ", text.size(), " bytes: longer than ", kMaxRecipeLength));
  }
  Recipe recipe;
  const size_t colon = text.find(':');
  recipe.codec = std::string(text.substr(0, colon));
  if (!IsName(recipe.codec)) {
    return Malformed(text, absl::StrCat("codec name ", Quoted(recipe.codec),
                                        " is not lower-case letters, digits and underscores"));
  }
  if (colon == absl::string_view::npos) return recipe;
  for (const absl::string_view option : absl::StrSplit(text.substr(colon + 1), ',')) {
    const size_t equals = option.find('=');
    if (equals == absl::string_view::npos) {
      return Malformed(text, absl::StrCat("option ", Quoted(option), " is not key=value"));
    }
    const absl::string_view key = option.substr(0, equals);
    const absl::string_view value = option.substr(equals + 1);
    if (!IsName(key)) {
      return Malformed(text, absl::StrCat("key ", Quoted(key),
                                          " is not lower-case letters, digits and underscores"));
    }
    if (!IsValue(value)) {
      return Malformed(text, absl::StrCat("value ", Quoted(value), " of key '", key,
                                          "' is not letters, digits, '_', '.', '+' or '-'"));
    }
    if (!recipe.options.emplace(key, value).second) {
      return Malformed(text, absl::StrCat("key '", key, "' is given twice"));
    }
  }
  return recipe;
}

std::string Recipe::ToString() const {
  if (options.empty()) return codec;
  return absl::StrCat(codec, ":", absl::StrJoin(options, ",", absl::PairFormatter("=")));
}

std::string ShortestDecimal(double value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

}  // namespace quantloom
