// Filters: `value | name(arguments)`.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/status.h"
#include "core/text/jinja/builtins.h"
#include "core/text/jinja/text_ops.h"

namespace quantloom::jinja {
namespace {

using Result = absl::StatusOr<Value>;
using Filter = Result (*)(const Value&, const Arguments&, Budget&);

// Filters on text take anything's text, and then do what the method of that name does.
template <const char* const& kMethod>
Result AsMethod(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(std::string text, ToText(value, budget));
  return CallMethod(Value(std::move(text)), kMethod, arguments, budget);
}
constexpr const char* kStrip = "strip";
constexpr const char* kUpper = "upper";
constexpr const char* kLower = "lower";
constexpr const char* kCapitalize = "capitalize";

Result Replace(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"old", "new", "count"}));
  if (!bound[0].has_value() || !bound[1].has_value()) {
    return absl::InvalidArgumentError("needs the old and the new text");
  }
  Arguments texts;
  for (int i = 0; i < 2; ++i) {
    QL_ASSIGN_OR_RETURN(std::string text, ToText(*bound[i], budget));
    texts.positional.emplace_back(std::move(text));
  }
  if (bound[2].has_value()) texts.positional.push_back(*bound[2]);
  QL_ASSIGN_OR_RETURN(std::string text, ToText(value, budget));
  return CallMethod(Value(std::move(text)), "replace", texts, budget);
}

// Unlike str.title a word begins after white space and opening brackets only: "It's", not "It'S".
Result Title(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const std::string text, ToText(value, budget));
  QL_ASSIGN_OR_RETURN(std::string out, ToCase(text, Case::kLower));
  bool word_start = true;
  for (char& c : out) {
    if (word_start) c = absl::ascii_toupper(c);
    word_start = IsSpace(static_cast<unsigned char>(c)) || absl::StrContains("-({[<", c);
  }
  return Value(std::move(out));
}

Result String(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(std::string text, ToText(value, budget));
  return Value(std::move(text));
}

// So many spaces, or the text itself.
absl::StatusOr<std::string> Indentation(const std::optional<Value>& width, Budget& budget) {
  if (width.has_value() && width->is_string()) return width->text();
  QL_ASSIGN_OR_RETURN(const int64_t spaces, IntegerOr(width, 4));
  if (spaces <= 0) return "";
  QL_RETURN_IF_ERROR(budget.Charge(static_cast<size_t>(spaces)));
  return std::string(static_cast<size_t>(spaces), ' ');
}

Result Indent(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"width", "first", "blank"}));
  QL_ASSIGN_OR_RETURN(const std::string indentation, Indentation(bound[0], budget));
  QL_ASSIGN_OR_RETURN(const std::string text, ToText(value, budget));
  const std::string ended = absl::StrCat(text, "\n");
  const bool blank = TruthOr(bound[2], false);
  std::string out = TruthOr(bound[1], false) ? indentation : "";
  bool first = true;
  for (const absl::string_view line : SplitLines(ended, /*keep_ends=*/false)) {
    QL_RETURN_IF_ERROR(budget.Charge(line.size() + indentation.size() + 1));
    const bool indents = !first && (blank || !line.empty());
    absl::StrAppend(&out, first ? "" : "\n", indents ? indentation : "", line);
    first = false;
  }
  return Value(std::move(out));
}

Result ToJsonFilter(const Value& value, const Arguments& arguments, Budget& budget) {
  // The arguments of the filter that transformers puts in the place of Jinja's own.
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound,
                      arguments.Bind({"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = TruthOr(bound[0], false);
  QL_ASSIGN_OR_RETURN(const int64_t indent, IntegerOr(bound[1], -1));
  constexpr int64_t kWidest = 1000;
  style.indent = static_cast<int>(std::clamp<int64_t>(indent, -1, kWidest));
  if (style.indent >= 0) style.item_separator.pop_back();  // no space at a line's end
  style.sort_keys = TruthOr(bound[3], false);
  if (bound[2].has_value() && !bound[2]->is_none()) {
    QL_ASSIGN_OR_RETURN(const Value::SequencePtr pair, Items(*bound[2], budget));
    if (pair->items.size() != 2 || !pair->items[0].is_string() || !pair->items[1].is_string()) {
      return absl::InvalidArgumentError("'separators' must be two strings");
    }
    style.item_separator = pair->items[0].text();
    style.key_separator = pair->items[1].text();
  }
  QL_ASSIGN_OR_RETURN(std::string json, ToJson(value, style, budget));
  return Value(std::move(json));
}

Result Default(const Value& value, const Arguments& arguments, Budget&) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"default_value", "boolean"}));
  const bool replaces = value.is_undefined() || (TruthOr(bound[1], false) && !value.truthy());
  return replaces ? bound[0].value_or(Value("")) : value;
}

Result LengthFilter(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const int64_t length, Length(value, budget));
  return Value(length);
}

Result First(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  return items->items.empty() ? Value::MakeUndefined("first item") : items->items.front();
}

Result Last(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  return items->items.empty() ? Value::MakeUndefined("last item") : items->items.back();
}

Result List(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  QL_RETURN_IF_ERROR(budget.Charge(items->items.size() * sizeof(Value)));
  return Value::MakeSequence(items->items);
}

Result Reverse(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  QL_RETURN_IF_ERROR(budget.Charge(items->items.size() * sizeof(Value)));
  std::vector<Value> reversed(items->items.rbegin(), items->items.rend());
  if (!value.is_string()) return Value::MakeSequence(std::move(reversed));
  std::string text;
  for (const Value& character : reversed) text += character.text();
  return Value(std::move(text));
}

// --- Filters over the items of a list.

// `path` is an attribute, an index, or several with dots between them.
Result AttributePath(Value value, const Value& path, Budget& budget) {
  if (!path.is_string()) return GetItem(value, path, budget);
  const std::vector<std::string> parts = absl::StrSplit(path.text(), '.');
  for (const std::string& part : parts) {
    QL_RETURN_IF_ERROR(budget.Step());
    int64_t index = 0;
    const char* end = part.data() + part.size();
    const bool is_index = std::from_chars(part.data(), end, index).ptr == end && !part.empty();
    QL_ASSIGN_OR_RETURN(value, GetItem(value, is_index ? Value(index) : Value(part), budget));
  }
  return value;
}

absl::StatusOr<std::vector<Value>> Keys(const std::vector<Value>& items,
                                        const std::optional<Value>& attribute, bool case_sensitive,
                                        Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Charge(items.size() * sizeof(Value)));
  std::vector<Value> keys;
  for (const Value& item : items) {
    Value key = item;
    if (attribute.has_value() && !attribute->is_none()) {
      QL_ASSIGN_OR_RETURN(key, AttributePath(item, *attribute, budget));
    }
    if (key.is_string() && !case_sensitive) {
      QL_RETURN_IF_ERROR(budget.Charge(key.text().size()));
      QL_ASSIGN_OR_RETURN(std::string lower, ToCase(key.text(), Case::kLower));
      key = Value(std::move(lower));
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

// The order of `keys`: indices into them.
absl::StatusOr<std::vector<size_t>> SortedOrder(const std::vector<Value>& keys, bool reverse,
                                                Budget& budget) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  absl::Status status;
  // After an error nothing is less than anything: the sort ends, its result is not used.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (!status.ok()) return false;
    const absl::StatusOr<int> compared = Compare(keys[a], keys[b], budget);
    if (!compared.ok()) {
      status = compared.status();
      return false;
    }
    return reverse ? *compared > 0 : *compared < 0;
  });
  QL_RETURN_IF_ERROR(status);
  return order;
}

Result Sort(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound,
                      arguments.Bind({"reverse", "case_sensitive", "attribute"}));
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  QL_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                      Keys(items->items, bound[2], TruthOr(bound[1], false), budget));
  QL_ASSIGN_OR_RETURN(const std::vector<size_t> order,
                      SortedOrder(keys, TruthOr(bound[0], false), budget));
  std::vector<Value> sorted;
  sorted.reserve(order.size());
  for (const size_t i : order) sorted.push_back(items->items[i]);
  return Value::MakeSequence(std::move(sorted));
}

Result DictSort(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound,
                      arguments.Bind({"case_sensitive", "by", "reverse"}));
  if (!value.is_dict()) return absl::InvalidArgumentError("needs a dict");
  QL_ASSIGN_OR_RETURN(const std::string by, TextOr(bound[1], "key"));
  if (by != "key" && by != "value") {
    return absl::InvalidArgumentError("'by' must be 'key' or 'value'");
  }
  QL_ASSIGN_OR_RETURN(const Value items, CallMethod(value, "items", {}, budget));
  Arguments sort;
  sort.positional = {Value(TruthOr(bound[2], false)), Value(TruthOr(bound[0], false)),
                     Value(int64_t{by == "value"})};
  return Sort(items, sort, budget);
}

Result Unique(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound,
                      arguments.Bind({"case_sensitive", "attribute"}));
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  QL_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                      Keys(items->items, bound[1], TruthOr(bound[0], false), budget));
  std::vector<Value> unique;
  for (size_t i = 0; i < keys.size(); ++i) {
    bool seen = false;
    for (size_t j = 0; j < i && !seen; ++j) {
      QL_ASSIGN_OR_RETURN(seen, Equal(keys[i], keys[j], budget));
    }
    if (!seen) unique.push_back(items->items[i]);
  }
  return Value::MakeSequence(std::move(unique));
}

template <bool kMaximum>
Result Extreme(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound,
                      arguments.Bind({"case_sensitive", "attribute"}));
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  if (items->items.empty()) return Value::MakeUndefined("item of an empty list");
  QL_ASSIGN_OR_RETURN(const std::vector<Value> keys,
                      Keys(items->items, bound[1], TruthOr(bound[0], false), budget));
  size_t best = 0;
  for (size_t i = 1; i < keys.size(); ++i) {
    QL_ASSIGN_OR_RETURN(const int order, Compare(keys[i], keys[best], budget));
    if (kMaximum ? order > 0 : order < 0) best = i;
  }
  return items->items[best];
}

Result Join(const Value& value, const Arguments& arguments, Budget& budget) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"d", "attribute"}));
  QL_ASSIGN_OR_RETURN(const std::string delimiter, ToText(bound[0].value_or(Value("")), budget));
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    QL_RETURN_IF_ERROR(budget.Charge(delimiter.size()));
    Value item = items->items[i];
    if (bound[1].has_value()) {
      QL_ASSIGN_OR_RETURN(item, AttributePath(item, *bound[1], budget));
    }
    QL_ASSIGN_OR_RETURN(const std::string text, ToText(item, budget));
    absl::StrAppend(&out, i == 0 ? "" : delimiter, text);
  }
  return Value(std::move(out));
}

// The name of a filter or test that is itself an argument, taken off the front of `arguments`.
absl::StatusOr<std::string> TakeName(Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.positional[0].is_string()) {
    return absl::InvalidArgumentError("needs a name as its argument");
  }
  std::string name = arguments.positional[0].text();
  arguments.positional.erase(arguments.positional.begin());
  return name;
}

Result MapItem(const Value& item, const std::string& filter, const Arguments& arguments,
               Budget& budget) {
  if (!filter.empty()) return ApplyFilter(filter, item, arguments, budget);
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"attribute", "default"}));
  if (!bound[0].has_value()) return absl::InvalidArgumentError("needs an attribute");
  QL_ASSIGN_OR_RETURN(Value value, AttributePath(item, *bound[0], budget));
  return value.is_undefined() && bound[1].has_value() ? *bound[1] : value;
}

// map('filter', arguments ...) or map(attribute='name', default=...)
Result Map(const Value& value, const Arguments& arguments, Budget& budget) {
  Arguments rest = arguments;
  std::string filter;
  if (!rest.positional.empty()) {
    QL_ASSIGN_OR_RETURN(filter, TakeName(rest));
  }
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  std::vector<Value> mapped;
  for (const Value& item : items->items) {
    QL_RETURN_IF_ERROR(budget.Step());
    QL_ASSIGN_OR_RETURN(Value result, MapItem(item, filter, rest, budget));
    mapped.push_back(std::move(result));
  }
  return Value::MakeSequence(std::move(mapped));
}

// select, reject: by a test of the item; selectattr, rejectattr: of its attribute. Without a test
// what is true in a condition passes.
template <bool kAttribute, bool kKeep>
Result Select(const Value& value, const Arguments& arguments, Budget& budget) {
  Arguments rest = arguments;
  Value attribute;
  std::string test;
  if (kAttribute) {
    if (rest.positional.empty()) return absl::InvalidArgumentError("needs an attribute");
    attribute = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  if (!rest.positional.empty()) {
    QL_ASSIGN_OR_RETURN(test, TakeName(rest));
  }
  QL_ASSIGN_OR_RETURN(const Value::SequencePtr items, Items(value, budget));
  std::vector<Value> selected;
  for (const Value& item : items->items) {
    QL_RETURN_IF_ERROR(budget.Step());
    Value tested = item;
    if (kAttribute) {
      QL_ASSIGN_OR_RETURN(tested, AttributePath(item, attribute, budget));
    }
    bool passes = tested.truthy();
    if (!test.empty()) {
      QL_ASSIGN_OR_RETURN(passes, ApplyTest(test, tested, rest, budget));
    }
    if (passes == kKeep) selected.push_back(item);
  }
  return Value::MakeSequence(std::move(selected));
}

Result ItemsFilter(const Value& value, const Arguments& arguments, Budget& budget) {
  if (value.is_undefined()) return Value::MakeSequence({});
  if (!value.is_dict()) return absl::InvalidArgumentError("needs a dict");
  return CallMethod(value, "items", arguments, budget);
}

// --- Numbers.

// Leading and trailing white space and a plus sign are allowed, as Python does.
absl::string_view NumberText(const Value& value) {
  absl::string_view text = Strip(value.text(), Side::kBoth);
  if (absl::StartsWith(text, "+") && !absl::StartsWith(text, "+-")) text.remove_prefix(1);
  return text;
}

std::optional<double> ParseReal(absl::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const std::from_chars_result result = std::from_chars(text.data(), end, value);
  if (text.empty() || result.ptr != end || result.ec != std::errc()) return std::nullopt;
  return value;
}

Result Int(const Value& value, const Arguments& arguments, Budget&) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"default", "base"}));
  QL_ASSIGN_OR_RETURN(const int64_t base, IntegerOr(bound[1], 10));
  if (base != 10) return absl::InvalidArgumentError("only base 10 is supported");
  std::optional<double> real;
  if (value.is_int() || value.is_bool()) return Value(value.integer());
  if (value.is_float()) real = value.real();
  if (value.is_string()) {
    const absl::string_view text = NumberText(value);
    int64_t integer = 0;
    const char* end = text.data() + text.size();
    const std::from_chars_result result = std::from_chars(text.data(), end, integer);
    if (!text.empty() && result.ptr == end && result.ec == std::errc()) return Value(integer);
    real = ParseReal(text);
  }
  // 2^63, the first value that has no int64.
  constexpr double kTooLarge = 9223372036854775808.0;
  if (real.has_value() && std::fabs(*real) < kTooLarge) return Value(static_cast<int64_t>(*real));
  return bound[0].value_or(Value(int64_t{0}));
}

Result Float(const Value& value, const Arguments& arguments, Budget&) {
  QL_ASSIGN_OR_RETURN(const Arguments::Bound bound, arguments.Bind({"default"}));
  if (value.is_number()) return Value(value.real());
  if (value.is_string()) {
    if (const std::optional<double> real = ParseReal(NumberText(value))) return Value(*real);
  }
  return bound[0].value_or(Value(0.0));
}

Result Abs(const Value& value, const Arguments& arguments, Budget&) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  if (value.is_float()) return Value(std::fabs(value.real()));
  if (!value.is_number()) return absl::InvalidArgumentError("needs a number");
  const int64_t number = value.integer();
  if (number == INT64_MIN) return absl::InvalidArgumentError("integer overflow");
  return Value(number < 0 ? -number : number);
}

Result Safe(const Value& value, const Arguments& arguments, Budget&) {
  QL_RETURN_IF_ERROR(arguments.Bind({}).status());
  return value;  // nothing is escaped anyway
}

const absl::flat_hash_map<absl::string_view, Filter>& Filters() {
  static const auto* const kFilters = new absl::flat_hash_map<absl::string_view, Filter>{
      {"abs", Abs},
      {"capitalize", AsMethod<kCapitalize>},
      {"count", LengthFilter},
      {"d", Default},
      {"default", Default},
      {"dictsort", DictSort},
      {"first", First},
      {"float", Float},
      {"indent", Indent},
      {"int", Int},
      {"items", ItemsFilter},
      {"join", Join},
      {"last", Last},
      {"length", LengthFilter},
      {"list", List},
      {"lower", AsMethod<kLower>},
      {"map", Map},
      {"max", Extreme<true>},
      {"min", Extreme<false>},
      {"reject", Select<false, false>},
      {"rejectattr", Select<true, false>},
      {"replace", Replace},
      {"reverse", Reverse},
      {"safe", Safe},
      {"select", Select<false, true>},
      {"selectattr", Select<true, true>},
      {"sort", Sort},
      {"string", String},
      {"title", Title},
      {"tojson", ToJsonFilter},
      {"trim", AsMethod<kStrip>},
      {"unique", Unique},
      {"upper", AsMethod<kUpper>},
  };
  return *kFilters;
}

}  // namespace

bool IsFilter(absl::string_view name) { return Filters().contains(name); }

absl::StatusOr<Value> ApplyFilter(absl::string_view name, const Value& value,
                                  const Arguments& arguments, Budget& budget) {
  const auto it = Filters().find(name);
  if (it == Filters().end()) {
    return absl::InvalidArgumentError(absl::StrCat("the filter '", name, "' is unknown here"));
  }
  Result result = it->second(value, arguments, budget);
  if (!result.ok()) return Annotate(result.status(), absl::StrCat("filter '", name, "'"));
  return result;
}

}  // namespace quantloom::jinja
