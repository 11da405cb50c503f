#include "core/text/tokenizer.h"
#include "core/text/utf8.h"

namespace quantloom {

StreamingDetokenizer::StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamingDetokenizer::Push(int32_t id) {
  if (skip_special_ && tokenizer_.IsSpecial(id)) return "";
  pending_ += tokenizer_.TokenBytes(id);
  std::string complete;
  absl::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Unit unit = DecodeUtf8(rest);
    if (unit.kind == Utf8Unit::Kind::kUnfinished) break;
    AppendUtf8(unit.code_point, complete);
    rest.remove_prefix(unit.length);
  }
  pending_ = std::string(rest);
  return complete;
}

std::string StreamingDetokenizer::Flush() {
  std::string rest = ReplaceInvalidUtf8(pending_);
  pending_.clear();
  return rest;
}

}  // namespace quantloom
