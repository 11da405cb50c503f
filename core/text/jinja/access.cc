// Attributes, indices, slices and lengths.
#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/builtins.h"
#include "core/text/jinja/text_ops.h"
#include "core/text/utf8.h"

namespace quantloom::jinja {
namespace {

// Offsets of a string's characters cost this much each.
constexpr size_t kOffsetBytes = sizeof(size_t);

absl::Status IsUndefined(const Value& value) {
  return absl::InvalidArgumentError(absl::StrCat("'", value.undefined_name(), "' is undefined"));
}

Value LoopAttribute(const Loop& loop, absl::string_view name) {
  const std::vector<Value>& items = loop.items->items;
  const auto integer = [](size_t value) { return Value(static_cast<int64_t>(value)); };
  if (name == "index") return integer(loop.index + 1);
  if (name == "index0") return integer(loop.index);
  if (name == "revindex") return integer(items.size() - loop.index);
  if (name == "revindex0") return integer(items.size() - loop.index - 1);
  if (name == "first") return Value(loop.index == 0);
  if (name == "last") return Value(loop.index + 1 == items.size());
  if (name == "length") return integer(items.size());
  if (name == "depth") return integer(1);
  if (name == "depth0") return integer(0);
  if (name == "previtem" && loop.index > 0) return items[loop.index - 1];
  if (name == "nextitem" && loop.index + 1 < items.size()) return items[loop.index + 1];
  return Value::MakeUndefined(name);
}

// A slice's positions in a sequence of `length`, as slice.indices of Python makes them.
struct SlicePositions {
  int64_t start;
  int64_t stop;
  int64_t step;

  size_t count() const {
    if (step > 0) return start < stop ? static_cast<size_t>((stop - start - 1) / step + 1) : 0;
    return start > stop ? static_cast<size_t>((start - stop - 1) / -step + 1) : 0;
  }
};

absl::StatusOr<SlicePositions> ResolveSlice(const Value& start, const Value& stop,
                                            const Value& step, int64_t length) {
  SlicePositions slice{};
  QL_ASSIGN_OR_RETURN(slice.step, IntegerOr(step, 1));
  if (slice.step == 0) return absl::InvalidArgumentError("a slice's step cannot be zero");
  // A step beyond the length picks one item whatever its size.
  slice.step = std::clamp(slice.step, -length - 1, length + 1);
  const int64_t lowest = slice.step > 0 ? 0 : -1;
  const int64_t highest = slice.step > 0 ? length : length - 1;
  const auto resolve = [&](const Value& bound, int64_t fallback) -> absl::StatusOr<int64_t> {
    QL_ASSIGN_OR_RETURN(int64_t position, IntegerOr(bound, fallback));
    if (bound.is_none()) return position;
    if (position < 0) position = std::max(position, -length - 1) + length;
    return std::clamp(position, lowest, highest);
  };
  QL_ASSIGN_OR_RETURN(slice.start, resolve(start, slice.step > 0 ? lowest : highest));
  QL_ASSIGN_OR_RETURN(slice.stop, resolve(stop, slice.step > 0 ? highest : lowest));
  return slice;
}

absl::StatusOr<Value> SliceText(const std::string& text, const Value& start, const Value& stop,
                                const Value& step, Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Charge(text.size() * (1 + kOffsetBytes)));
  const std::vector<size_t> offsets = CharacterOffsets(text);
  QL_ASSIGN_OR_RETURN(const SlicePositions slice,
                      ResolveSlice(start, stop, step, static_cast<int64_t>(offsets.size()) - 1));
  std::string out;
  const size_t count = slice.count();
  for (size_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(slice.start + static_cast<int64_t>(i) * slice.step);
    out.append(text, offsets[at], offsets[at + 1] - offsets[at]);
  }
  return Value(std::move(out));
}

absl::StatusOr<Value> CharacterAt(const std::string& text, int64_t index, Budget& budget) {
  QL_RETURN_IF_ERROR(budget.Charge(text.size() * (1 + kOffsetBytes)));
  const std::vector<size_t> offsets = CharacterOffsets(text);
  const auto length = static_cast<int64_t>(offsets.size()) - 1;
  if (index < 0) index += length;
  if (index < 0 || index >= length) return Value::MakeUndefined("string index out of range");
  const size_t begin = offsets[static_cast<size_t>(index)];
  return Value(
      absl::string_view(text).substr(begin, offsets[static_cast<size_t>(index) + 1] - begin));
}

}  // namespace

absl::StatusOr<Value> GetAttribute(const Value& object, absl::string_view name, Budget& budget) {
  if (object.is_undefined()) return IsUndefined(object);
  if (object.is_loop()) return LoopAttribute(object.loop(), name);
  if (object.is_namespace()) {
    const auto& members = object.name_space().members;
    const auto it = members.find(name);
    return it == members.end() ? Value::MakeUndefined(name) : it->second;
  }
  if (HasMethod(object, name)) {
    return Value(Callable{std::string(name), std::make_shared<const Value>(object), nullptr});
  }
  if (object.is_dict()) {
    QL_RETURN_IF_ERROR(budget.Charge(object.dict().entries.size()));
    if (const Value* value = object.dict().Find(name)) return *value;
  }
  return Value::MakeUndefined(name);
}

absl::StatusOr<Value> GetItem(const Value& object, const Value& index, Budget& budget) {
  if (object.is_undefined()) return IsUndefined(object);
  if (index.is_string()) {
    // Here a dict's own entries come before its methods.
    if (object.is_dict()) {
      QL_RETURN_IF_ERROR(budget.Charge(object.dict().entries.size()));
      if (const Value* value = object.dict().Find(index.text())) return *value;
    }
    return GetAttribute(object, index.text(), budget);
  }
  if (!index.is_int() && !index.is_bool()) return Value::MakeUndefined("index");
  if (object.is_string()) return CharacterAt(object.text(), index.integer(), budget);
  if (!object.is_sequence()) return Value::MakeUndefined(absl::StrCat(index.integer()));
  const std::vector<Value>& items = object.sequence().items;
  int64_t i = index.integer();
  if (i < 0) i += static_cast<int64_t>(items.size());
  if (i < 0 || i >= static_cast<int64_t>(items.size())) {
    return Value::MakeUndefined("list index out of range");
  }
  return items[static_cast<size_t>(i)];
}

absl::StatusOr<Value> GetSlice(const Value& object, const Value& start, const Value& stop,
                               const Value& step, Budget& budget) {
  if (object.is_undefined()) return IsUndefined(object);
  if (object.is_string()) return SliceText(object.text(), start, stop, step, budget);
  if (!object.is_sequence()) {
    return absl::InvalidArgumentError(absl::StrCat("a ", object.type_name(), " has no slices"));
  }
  const Sequence& sequence = object.sequence();
  QL_ASSIGN_OR_RETURN(const SlicePositions slice,
                      ResolveSlice(start, stop, step, static_cast<int64_t>(sequence.items.size())));
  const size_t count = slice.count();
  QL_RETURN_IF_ERROR(budget.Charge(count * sizeof(Value)));
  std::vector<Value> items;
  items.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    items.push_back(
        sequence.items[static_cast<size_t>(slice.start + static_cast<int64_t>(i) * slice.step)]);
  }
  return Value::MakeSequence(std::move(items), sequence.is_tuple);
}

absl::StatusOr<int64_t> Length(const Value& value, Budget& budget) {
  if (value.is_string()) {
    QL_RETURN_IF_ERROR(budget.Charge(value.text().size()));
    return static_cast<int64_t>(CountCharacters(value.text()));
  }
  if (value.is_sequence()) return static_cast<int64_t>(value.sequence().items.size());
  if (value.is_dict()) return static_cast<int64_t>(value.dict().entries.size());
  if (value.is_loop()) return static_cast<int64_t>(value.loop().items->items.size());
  if (value.is_undefined()) return 0;
  return absl::InvalidArgumentError(absl::StrCat("a ", value.type_name(), " has no length"));
}

}  // namespace quantloom::jinja
