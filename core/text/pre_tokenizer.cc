#include "core/text/pre_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/json.h"
#include "core/base/status.h"
#include "core/text/utf8.h"

namespace quantloom {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 8;
constexpr size_t kMaxSteps = 64;

// The string member `name`, empty when it is missing or something else.
std::string StringMember(const json& object, const char* name) {
  const json* member = FindJson(object, name);
  return member != nullptr && member->is_string() ? member->get<std::string>() : "";
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const json& definition) {
  PreTokenizer pre_tokenizer;
  QL_RETURN_IF_ERROR(Annotate(pre_tokenizer.Append(definition, 0), "pre_tokenizer"));
  if (!pre_tokenizer.byte_level_) {
    return absl::InvalidArgumentError(
        "pre_tokenizer: no ByteLevel step; only byte-level tokenizers are supported");
  }
  return pre_tokenizer;
}

absl::Status PreTokenizer::Append(const json& definition, int depth) {
  if (depth > kMaxDepth) return absl::InvalidArgumentError("nested too deeply");
  if (!definition.is_object()) return absl::InvalidArgumentError("must be an object");
  if (byte_level_) return absl::InvalidArgumentError("a step after ByteLevel is not supported");
  const std::string type = StringMember(definition, "type");
  if (type == "ByteLevel") return Annotate(AppendByteLevel(definition), "ByteLevel");
  if (type == "Split") return Annotate(AppendSplit(definition), "Split");
  if (type == "Digits") {
    QL_ASSIGN_OR_RETURN(const bool individual,
                        JsonFieldOr<bool>(definition, "individual_digits", false));
    return AppendRegex(Step::Kind::kIsolate, individual ? R"(\p{N})" : R"(\p{N}+)");
  }
  if (type == "Sequence") {
    const json* steps = FindJson(definition, "pretokenizers");
    if (steps == nullptr || !steps->is_array()) {
      return absl::InvalidArgumentError("Sequence: 'pretokenizers' must be an array");
    }
    for (const json& step : *steps) QL_RETURN_IF_ERROR(Append(step, depth + 1));
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("type '", type, "' is not supported"));
}

absl::Status PreTokenizer::AppendByteLevel(const json& definition) {
  QL_ASSIGN_OR_RETURN(const bool prefix_space,
                      JsonFieldOr<bool>(definition, "add_prefix_space", true));
  QL_ASSIGN_OR_RETURN(const bool use_regex, JsonFieldOr<bool>(definition, "use_regex", true));
  if (prefix_space) steps_.push_back({Step::Kind::kPrefixSpace, std::nullopt});
  if (use_regex) QL_RETURN_IF_ERROR(AppendRegex(Step::Kind::kIsolate, kGpt2Pattern));
  byte_level_ = true;
  return absl::OkStatus();
}

absl::Status PreTokenizer::AppendSplit(const json& definition) {
  const json* pattern = FindJson(definition, "pattern");
  if (pattern == nullptr || !pattern->is_object()) {
    return absl::InvalidArgumentError("'pattern' must be an object");
  }
  std::string regex = StringMember(*pattern, "Regex");
  if (regex.empty()) regex = EscapeForRegex(StringMember(*pattern, "String"));
  if (regex.empty()) {
    return absl::InvalidArgumentError("'pattern' must hold a non-empty 'Regex' or 'String'");
  }
  QL_ASSIGN_OR_RETURN(const bool invert, JsonFieldOr<bool>(definition, "invert", false));
  const std::string behavior = StringMember(definition, "behavior");
  if (behavior == "Isolated") return AppendRegex(Step::Kind::kIsolate, regex);
  if (behavior == "Removed") {
    return AppendRegex(invert ? Step::Kind::kKeepMatches : Step::Kind::kDropMatches, regex);
  }
  return absl::InvalidArgumentError(absl::StrCat("behavior '", behavior, "' is not supported"));
}

absl::Status PreTokenizer::AppendRegex(Step::Kind kind, absl::string_view pattern) {
  if (steps_.size() >= kMaxSteps) return absl::InvalidArgumentError("too many steps");
  QL_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(pattern));
  steps_.push_back({kind, std::move(regex)});
  return absl::OkStatus();
}

void PreTokenizer::RunSteps(absl::string_view text, size_t step, Scratch& scratch,
                            Emit emit) const {
  if (text.empty()) return;
  if (step == steps_.size()) {
    emit(text);
  } else if (steps_[step].kind != Step::Kind::kPrefixSpace) {
    RunRegex(text, step, scratch, emit);
  } else if (text.front() == ' ') {
    RunSteps(text, step + 1, scratch, emit);
  } else {
    scratch.prefixed_.push_back(absl::StrCat(" ", text));
    RunSteps(scratch.prefixed_.back(), step + 1, scratch, emit);
  }
}

void PreTokenizer::RunRegex(absl::string_view text, size_t step, Scratch& scratch,
                            Emit emit) const {
  const Step::Kind kind = steps_[step].kind;
  const Regex& regex = *steps_[step].regex;
  const auto emit_part = [&](size_t begin, size_t end, bool wanted) {
    if (wanted) RunSteps(text.substr(begin, end - begin), step + 1, scratch, emit);
  };
  const bool keep_matches = kind != Step::Kind::kDropMatches;
  const bool keep_gaps = kind != Step::Kind::kKeepMatches;
  size_t done = 0;  // text before it has been handled
  size_t from = 0;
  bool gave_up = false;
  while (from < text.size()) {
    const Regex::Match match = regex.Find(text, from, scratch.regex_);
    gave_up = match.outcome == Regex::Match::Outcome::kGaveUp;
    if (match.outcome != Regex::Match::Outcome::kFound) break;
    emit_part(done, match.begin, keep_gaps);
    emit_part(match.begin, match.end, keep_matches);
    done = match.end;
    from = match.end;
    // An empty match cuts where it lies; the search goes on one character later.
    if (match.end == match.begin && from < text.size()) {
      from += DecodeUtf8(text.substr(from)).length;
    }
  }
  emit_part(done, text.size(), keep_gaps || gave_up);
}

}  // namespace quantloom
