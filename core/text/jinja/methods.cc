// Methods of strings and dicts, and the functions.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/status.h"
#include "core/text/jinja/builtins.h"
#include "core/text/jinja/text_ops.h"
#include "core/text/utf8.h"

namespace quantloom::jinja {
namespace {

constexpr auto kNotFound = absl::string_view::npos;

// Memory of a short string in a list, beside its bytes.
constexpr size_t kPartBytes = 96;

using Result = absl::StatusOr<Value>;
using Method = Result (*)(const Value&, const Arguments&, Budget&);

absl::StatusOr<std::string> RequiredText(const std::optional<Value>& argument) {
  if (argument.has_value() && argument->is_string()) return argument->text();
  return absl::InvalidArgumentError("needs a string as its argument");
}

template <Side kSide>
Result StripMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"chars"}));
  QL_RETURN_IF_ERROR(budget.Charge(self.text().size()));
  if (!bound[0].has_value() || bound[0]->is_none()) return Value(Strip(self.text(), kSide));
  QL_ASSIGN_OR_RETURN(const std::string characters, RequiredText(bound[0]));
  QL_RETURN_IF_ERROR(budget.Charge(characters.size()));
  return Value(StripCharacters(self.text(), characters, kSide));
}

template <Case kCase>
Result CaseMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_RETURN_IF_ERROR(budget.Charge(self.text().size()));
  QL_ASSIGN_OR_RETURN(std::string text, ToCase(self.text(), kCase));
  return Value(std::move(text));
}

// startswith and endswith: with one string, or any of a tuple.
template <bool (*kMatches)(absl::string_view, absl::string_view)>
Result AffixMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"affix"}));
  if (bound[0].has_value() && bound[0]->is_sequence()) {
    for (const Value& affix : bound[0]->sequence().items) {
      QL_RETURN_IF_ERROR(budget.Step());
      QL_ASSIGN_OR_RETURN(const std::string text, RequiredText(affix));
      QL_RETURN_IF_ERROR(budget.Charge(text.size()));
      if (kMatches(self.text(), text)) return Value(true);
    }
    return Value(false);
  }
  QL_ASSIGN_OR_RETURN(const std::string text, RequiredText(bound[0]));
  QL_RETURN_IF_ERROR(budget.Charge(text.size()));
  return Value(kMatches(self.text(), text));
}

bool HasPrefix(absl::string_view text, absl::string_view affix) {
  return absl::StartsWith(text, affix);
}
bool HasSuffix(absl::string_view text, absl::string_view affix) {
  return absl::EndsWith(text, affix);
}

template <bool kPrefix>
Result RemoveAffixMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"affix"}));
  QL_ASSIGN_OR_RETURN(const std::string affix, RequiredText(bound[0]));
  QL_RETURN_IF_ERROR(budget.Charge(self.text().size() + affix.size()));
  absl::string_view text = self.text();
  if (kPrefix && absl::StartsWith(text, affix)) text.remove_prefix(affix.size());
  if (!kPrefix && absl::EndsWith(text, affix)) text.remove_suffix(affix.size());
  return Value(text);
}

absl::StatusOr<Value> MakeParts(const std::vector<absl::string_view>& parts, Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Charge(parts.size() * kPartBytes));
  std::vector<Value> values;
  values.reserve(parts.size());
  for (const absl::string_view part : parts) values.emplace_back(part);
  return Value::MakeSequence(std::move(values));
}

// Start of the last occurrence that ends at or before the end of `text`.
size_t FindLastText(absl::string_view text, absl::string_view needle) {
  // The reversed search is linear too.
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t found = FindText(reversed_text, reversed_needle);
  return found == kNotFound ? kNotFound : text.size() - found - needle.size();
}

std::vector<absl::string_view> SplitAtSpace(absl::string_view text, int64_t limit) {
  std::vector<absl::string_view> parts;
  text = Strip(text, Side::kLeft);
  while (!text.empty() && (limit < 0 || static_cast<int64_t>(parts.size()) < limit)) {
    size_t length = 0;
    while (length < text.size() && LeadingSpace(text.substr(length, 4)) == 0) ++length;
    parts.push_back(text.substr(0, length));
    text = Strip(text.substr(length), Side::kLeft);
  }
  if (!text.empty()) parts.push_back(Strip(text, Side::kRight));
  return parts;
}

Result SplitMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"sep", "maxsplit"}));
  QL_ASSIGN_OR_RETURN(const int64_t limit, IntegerOr(bound[1], -1));
  absl::string_view text = self.text();
  // Parts are views until they are charged for: 16 bytes each, one for each byte at most.
  QL_RETURN_IF_ERROR(budget.Charge(text.size()));
  if (!bound[0].has_value() || bound[0]->is_none()) {
    return MakeParts(SplitAtSpace(text, limit), budget);
  }
  QL_ASSIGN_OR_RETURN(const std::string separator, RequiredText(bound[0]));
  if (separator.empty()) return absl::InvalidArgumentError("the separator is empty");
  std::vector<absl::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = FindText(text, separator);
    if (at == kNotFound) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return MakeParts(parts, budget);
}

Result RsplitMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"sep", "maxsplit"}));
  QL_ASSIGN_OR_RETURN(const int64_t limit, IntegerOr(bound[1], -1));
  QL_ASSIGN_OR_RETURN(const std::string separator, RequiredText(bound[0]));
  if (separator.empty()) return absl::InvalidArgumentError("the separator is empty");
  absl::string_view text = self.text();
  std::vector<absl::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    QL_RETURN_IF_ERROR(budget.Charge(2 * text.size()));
    const size_t at = FindLastText(text, separator);
    if (at == kNotFound) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return MakeParts(parts, budget);
}

Result SplitLinesMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"keepends"}));
  QL_RETURN_IF_ERROR(budget.Charge(self.text().size()));
  return MakeParts(SplitLines(self.text(), TruthOr(bound[0], false)), budget);
}

Result JoinMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"iterable"}));
  if (!bound[0].has_value()) return absl::InvalidArgumentError("needs an argument");
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(*bound[0], budget));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    QL_ASSIGN_OR_RETURN(const std::string part, RequiredText(items->items[i]));
    QL_RETURN_IF_ERROR(budget.Charge(self.text().size() + part.size()));
    absl::StrAppend(&out, i == 0 ? "" : self.text(), part);
  }
  return Value(std::move(out));
}

// The replace filter takes what is not a string as its text; the method has strings only.
Result ReplaceMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"old", "new", "count"}));
  QL_ASSIGN_OR_RETURN(const std::string old_text, RequiredText(bound[0]));
  QL_ASSIGN_OR_RETURN(const std::string new_text, RequiredText(bound[1]));
  QL_ASSIGN_OR_RETURN(const int64_t limit, IntegerOr(bound[2], -1));
  const absl::string_view text = self.text();
  QL_RETURN_IF_ERROR(budget.Charge(2 * text.size()));
  std::string out;
  size_t done = 0;
  for (int64_t count = 0; limit < 0 || count < limit; ++count) {
    size_t at = FindText(text, old_text, done);
    // An empty old text is found before every character and at the end.
    if (old_text.empty() && count > 0) {
      if (done == text.size()) break;
      at = done + 1;
      while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) ++at;
    }
    if (at == kNotFound) break;
    QL_RETURN_IF_ERROR(budget.Charge(new_text.size()));
    absl::StrAppend(&out, text.substr(done, at - done), new_text);
    done = at + old_text.size();
  }
  absl::StrAppend(&out, text.substr(done));
  return Value(std::move(out));
}

template <bool kLast>
Result FindMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"sub"}));
  QL_ASSIGN_OR_RETURN(const std::string needle, RequiredText(bound[0]));
  QL_RETURN_IF_ERROR(budget.Charge(2 * self.text().size()));
  const absl::string_view text = self.text();
  const size_t at = kLast ? FindLastText(text, needle) : FindText(text, needle);
  if (at == kNotFound) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(CountCharacters(text.substr(0, at))));
}

Result CountMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"sub"}));
  QL_ASSIGN_OR_RETURN(const std::string needle, RequiredText(bound[0]));
  const absl::string_view text = self.text();
  QL_RETURN_IF_ERROR(budget.Charge(text.size()));
  if (needle.empty()) return Value(static_cast<int64_t>(CountCharacters(text)) + 1);
  int64_t count = 0;
  for (size_t at = FindText(text, needle); at != kNotFound;
       at = FindText(text, needle, at + needle.size())) {
    ++count;
  }
  return Value(count);
}

Result ItemsMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_RETURN_IF_ERROR(budget.Charge(self.dict().entries.size() * 2 * kPartBytes));
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    QL_ASSIGN_OR_RETURN(Value item, Value::MakeSequence({Value(key), value}, /*is_tuple=*/true));
    items.push_back(std::move(item));
  }
  return Value::MakeSequence(std::move(items));
}

Result KeysMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr keys, Items(self, budget));
  return Value::MakeSequence(keys->items);
}

Result ValuesMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_RETURN_IF_ERROR(budget.Charge(self.dict().entries.size() * sizeof(Value)));
  std::vector<Value> values;
  for (const auto& [unused, value] : self.dict().entries) values.push_back(value);
  return Value::MakeSequence(std::move(values));
}

Result GetMethod(const Value& self, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"key", "default"}));
  QL_RETURN_IF_ERROR(budget.Charge(self.dict().entries.size()));
  const Value* found =
      bound[0].has_value() && bound[0]->is_string() ? self.dict().Find(bound[0]->text()) : nullptr;
  if (found != nullptr) return *found;
  return bound[1].value_or(Value());
}

using MethodTable = absl::flat_hash_map<absl::string_view, Method>;

const MethodTable* MethodsOf(const Value& receiver) {
  static const auto* const kOfStrings = new MethodTable{
      {"strip", StripMethod<Side::kBoth>},
      {"lstrip", StripMethod<Side::kLeft>},
      {"rstrip", StripMethod<Side::kRight>},
      {"upper", CaseMethod<Case::kUpper>},
      {"lower", CaseMethod<Case::kLower>},
      {"capitalize", CaseMethod<Case::kCapitalized>},
      {"title", CaseMethod<Case::kTitle>},
      {"startswith", AffixMethod<HasPrefix>},
      {"endswith", AffixMethod<HasSuffix>},
      {"removeprefix", RemoveAffixMethod<true>},
      {"removesuffix", RemoveAffixMethod<false>},
      {"split", SplitMethod},
      {"rsplit", RsplitMethod},
      {"splitlines", SplitLinesMethod},
      {"join", JoinMethod},
      {"replace", ReplaceMethod},
      {"find", FindMethod<false>},
      {"rfind", FindMethod<true>},
      {"count", CountMethod},
  };
  static const auto* const kOfDicts = new MethodTable{
      {"items", ItemsMethod}, {"keys", KeysMethod}, {"values", ValuesMethod}, {"get", GetMethod}};
  if (receiver.is_string()) return kOfStrings;
  return receiver.is_dict() ? kOfDicts : nullptr;
}

Result Range(const Arguments& arguments, Budget& budget) {
  constexpr int64_t kLongest = 100'000;  // the limit of Jinja's sandbox
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"start", "stop", "step"}));
  if (!bound[0].has_value()) return absl::InvalidArgumentError("needs an argument");
  QL_ASSIGN_OR_RETURN(int64_t start, IntegerOr(bound[0], 0));
  QL_ASSIGN_OR_RETURN(int64_t stop, IntegerOr(bound[1], 0));
  QL_ASSIGN_OR_RETURN(const int64_t step, IntegerOr(bound[2], 1));
  if (!bound[1].has_value()) stop = std::exchange(start, 0);
  if (step == 0) return absl::InvalidArgumentError("the step cannot be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kLongest) {
      return absl::ResourceExhaustedError(absl::StrCat("is longer than ", kLongest));
    }
    QL_RETURN_IF_ERROR(budget.Charge(sizeof(Value)));
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::MakeSequence(std::move(items));
}

Result MakeDictionary(const Arguments& arguments, Budget& budget) {
  if (!arguments.positional.empty()) {
    return absl::InvalidArgumentError("takes keyword arguments only");
  }
  QL_RETURN_IF_ERROR(budget.Charge(arguments.keywords.size() * sizeof(Value)));
  return Value::MakeDict(arguments.keywords);
}

Result RaiseException(const Arguments& arguments, Budget&) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"message"}));
  QL_ASSIGN_OR_RETURN(const std::string message, TextOr(bound[0], ""));
  return absl::InvalidArgumentError(message);
}

// The local time, formatted as strftime does.
Result StrftimeNow(const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"format"}));
  QL_ASSIGN_OR_RETURN(const std::string format, RequiredText(bound[0]));
  constexpr size_t kBytesPerDirective = 64;
  QL_RETURN_IF_ERROR(budget.Charge(format.size() * kBytesPerDirective));
  return Value(absl::FormatTime(format, absl::Now(), absl::LocalTimeZone()));
}

using Function = Result (*)(const Arguments&, Budget&);

const absl::flat_hash_map<absl::string_view, Function>& Functions() {
  static const auto* const kFunctions = new absl::flat_hash_map<absl::string_view, Function>{
      {"range", Range},
      {"dict", MakeDictionary},
      {"raise_exception", RaiseException},
      {"strftime_now", StrftimeNow},
  };
  return *kFunctions;
}

}  // namespace

bool HasMethod(const Value& receiver, absl::string_view name) {
  const MethodTable* methods = MethodsOf(receiver);
  return methods != nullptr && methods->contains(name);
}

absl::StatusOr<Value> CallMethod(const Value& receiver, absl::string_view name,
                                 const Arguments& arguments, Budget& budget) {
  Result result = MethodsOf(receiver)->at(name)(receiver, arguments, budget);
  if (!result.ok()) return Annotate(result.status(), absl::StrCat(name, "()"));
  return result;
}

bool IsFunction(absl::string_view name) { return Functions().contains(name); }

absl::StatusOr<Value> CallFunction(absl::string_view name, const Arguments& arguments,
                                   Budget& budget) {
  Result result = Functions().at(name)(arguments, budget);
  // A template's own message stands by itself.
  if (result.ok() || name == "raise_exception") return result;
  return Annotate(result.status(), absl::StrCat(name, "()"));
}

}  // namespace quantloom::jinja
