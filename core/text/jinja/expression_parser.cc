#include "core/text/jinja/expression_parser.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/builtins.h"

namespace quantloom::jinja {
namespace {

// Bounds the recursion in the evaluator.
constexpr int kMaxHeight = 200;

}  // namespace

ExpressionPtr ExpressionParser::Make(Kind kind, Position position) {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->position = position;
  return expression;
}

absl::Status ExpressionParser::Adopt(Expression& parent, Result child) {
  if (!child.ok()) return child.status();
  if (*child != nullptr) QL_RETURN_IF_ERROR(Grow(parent, **child));
  parent.children.push_back(*std::move(child));
  return absl::OkStatus();
}

absl::Status ExpressionParser::Grow(Expression& parent, const Expression& child) {
  parent.height = std::max(parent.height, child.height + 1);
  if (parent.height > kMaxHeight) return ErrorAt(parent.position, "nested too deeply");
  return absl::OkStatus();
}

ExpressionParser::Result ExpressionParser::Combine(Kind kind, Position position, ExpressionPtr left,
                                                   Result right) {
  ExpressionPtr node = Make(kind, position);
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(left)));
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(right)));
  return node;
}

ExpressionParser::Result ExpressionParser::TupleOrExpression(bool conditional) {
  const Position position = Current().position;
  QL_ASSIGN_OR_RETURN(ExpressionPtr first, conditional ? Conditional() : Or());
  if (!IsOperator(",")) return first;
  ExpressionPtr tuple = Make(Kind::kTuple, position);
  QL_RETURN_IF_ERROR(Adopt(*tuple, std::move(first)));
  while (SkipOperator(",")) {
    if (EndsTuple()) break;
    QL_RETURN_IF_ERROR(Adopt(*tuple, conditional ? Conditional() : Or()));
  }
  return tuple;
}

bool ExpressionParser::EndsTuple() const {
  return Current().kind == Token::Kind::kBlockEnd || Current().kind == Token::Kind::kOutputEnd ||
         IsOperator(")");
}

ExpressionParser::Result ExpressionParser::Conditional() {
  const Nesting nesting(*this);
  QL_RETURN_IF_ERROR(nesting.Check());
  QL_ASSIGN_OR_RETURN(ExpressionPtr value, Or());
  while (IsName("if")) {
    ExpressionPtr node = Make(Kind::kConditional, Current().position);
    Skip();
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(value)));
    QL_RETURN_IF_ERROR(Adopt(*node, Or()));
    QL_RETURN_IF_ERROR(Adopt(*node, SkipName("else") ? Conditional() : Result(nullptr)));
    value = std::move(node);
  }
  return value;
}

ExpressionParser::Result ExpressionParser::Or() {
  QL_ASSIGN_OR_RETURN(ExpressionPtr left, And());
  while (IsName("or")) {
    const Position position = Current().position;
    Skip();
    QL_ASSIGN_OR_RETURN(left, Combine(Kind::kOr, position, std::move(left), And()));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::And() {
  QL_ASSIGN_OR_RETURN(ExpressionPtr left, Not());
  while (IsName("and")) {
    const Position position = Current().position;
    Skip();
    QL_ASSIGN_OR_RETURN(left, Combine(Kind::kAnd, position, std::move(left), Not()));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::Not() {
  if (!IsName("not")) return Comparison();
  const Nesting nesting(*this);
  QL_RETURN_IF_ERROR(nesting.Check());
  ExpressionPtr node = Make(Kind::kNot, Current().position);
  Skip();
  QL_RETURN_IF_ERROR(Adopt(*node, Not()));
  return node;
}

std::string ExpressionParser::SkipComparisonOperator() {
  constexpr absl::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
  std::string text = Current().text;
  if (Current().kind == Token::Kind::kOperator && IsOneOf(text, kOperators)) {
    Skip();
    return text;
  }
  if (SkipName("in")) return "in";
  if (IsName("not") && Peek().kind == Token::Kind::kName && Peek().text == "in") {
    Skip();
    Skip();
    return "not in";
  }
  return "";
}

ExpressionParser::Result ExpressionParser::Comparison() {
  const Position position = Current().position;
  QL_ASSIGN_OR_RETURN(ExpressionPtr first, Additive());
  std::string op = SkipComparisonOperator();
  if (op.empty()) return first;
  ExpressionPtr node = Make(Kind::kComparison, position);
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(first)));
  while (!op.empty()) {
    node->operators.push_back(std::move(op));
    QL_RETURN_IF_ERROR(Adopt(*node, Additive()));
    op = SkipComparisonOperator();
  }
  return node;
}

template <size_t kCount>
ExpressionParser::Result ExpressionParser::Arithmetic(const absl::string_view (&operators)[kCount],
                                                      Result (ExpressionParser::*operand)()) {
  QL_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*operand)());
  while (Current().kind == Token::Kind::kOperator && IsOneOf(Current().text, operators)) {
    const Token op = Current();
    Skip();
    QL_ASSIGN_OR_RETURN(
        left, Combine(Kind::kArithmetic, op.position, std::move(left), (this->*operand)()));
    left->operators.push_back(op.text);
  }
  return left;
}

ExpressionParser::Result ExpressionParser::Additive() {
  static constexpr absl::string_view kOperators[] = {"+", "-"};
  return Arithmetic(kOperators, &ExpressionParser::Concatenation);
}

ExpressionParser::Result ExpressionParser::Concatenation() {
  const Position position = Current().position;
  QL_ASSIGN_OR_RETURN(ExpressionPtr first, Multiplicative());
  if (!IsOperator("~")) return first;
  ExpressionPtr node = Make(Kind::kConcatenate, position);
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(first)));
  while (SkipOperator("~")) QL_RETURN_IF_ERROR(Adopt(*node, Multiplicative()));
  return node;
}

ExpressionParser::Result ExpressionParser::Multiplicative() {
  static constexpr absl::string_view kOperators[] = {"*", "/", "//", "%"};
  return Arithmetic(kOperators, &ExpressionParser::Power);
}

ExpressionParser::Result ExpressionParser::Power() {
  static constexpr absl::string_view kOperators[] = {"**"};
  return Arithmetic(kOperators, &ExpressionParser::UnaryWithFilters);
}

ExpressionParser::Result ExpressionParser::UnaryWithFilters() { return Unary(/*filters=*/true); }

ExpressionParser::Result ExpressionParser::Unary(bool filters) {
  const Nesting nesting(*this);
  QL_RETURN_IF_ERROR(nesting.Check());
  ExpressionPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    node = Make(IsOperator("-") ? Kind::kNegate : Kind::kPlus, Current().position);
    Skip();
    QL_RETURN_IF_ERROR(Adopt(*node, Unary(/*filters=*/false)));
  } else {
    QL_ASSIGN_OR_RETURN(node, Primary());
  }
  QL_ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
  return filters ? FiltersAndTests(std::move(node)) : Result(std::move(node));
}

ExpressionParser::Result ExpressionParser::Primary() {
  const Token token = Current();
  switch (token.kind) {
    case Token::Kind::kName:
      return NameOrConstant();
    case Token::Kind::kString:
      return StringLiteral();
    case Token::Kind::kInteger:
      Skip();
      return Literal(token.position, Value(token.integer));
    case Token::Kind::kFloat:
      Skip();
      return Literal(token.position, Value(token.real));
    default:
      break;
  }
  if (SkipOperator("(")) return Parenthesized(token.position);
  if (SkipOperator("[")) return ListLiteral(token.position);
  if (SkipOperator("{")) return DictLiteral(token.position);
  return Expected("an expression");
}

ExpressionPtr ExpressionParser::Literal(Position position, Value value) {
  ExpressionPtr node = Make(Kind::kLiteral, position);
  node->literal = std::move(value);
  return node;
}

ExpressionParser::Result ExpressionParser::NameOrConstant() {
  const Position position = Current().position;
  QL_ASSIGN_OR_RETURN(std::string name, NewName());
  if (name == "true" || name == "True") return Literal(position, Value(true));
  if (name == "false" || name == "False") return Literal(position, Value(false));
  if (name == "none" || name == "None") return Literal(position, Value());
  ExpressionPtr node = Make(Kind::kName, position);
  node->name = std::move(name);
  return node;
}

ExpressionParser::Result ExpressionParser::StringLiteral() {
  const Position position = Current().position;
  std::string text;
  while (Current().kind == Token::Kind::kString) {
    text += Current().text;
    Skip();
  }
  return Literal(position, Value(std::move(text)));
}

ExpressionParser::Result ExpressionParser::Parenthesized(Position position) {
  if (SkipOperator(")")) return Make(Kind::kTuple, position);
  QL_ASSIGN_OR_RETURN(ExpressionPtr inside, TupleOrExpression());
  QL_RETURN_IF_ERROR(ExpectOperator(")"));
  return inside;
}

ExpressionParser::Result ExpressionParser::ListLiteral(Position position) {
  ExpressionPtr node = Make(Kind::kList, position);
  while (!IsOperator("]")) {
    QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
    if (!SkipOperator(",")) break;
  }
  QL_RETURN_IF_ERROR(ExpectOperator("]"));
  return node;
}

ExpressionParser::Result ExpressionParser::DictLiteral(Position position) {
  ExpressionPtr node = Make(Kind::kDict, position);
  while (!IsOperator("}")) {
    QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
    QL_RETURN_IF_ERROR(ExpectOperator(":"));
    QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
    if (!SkipOperator(",")) break;
  }
  QL_RETURN_IF_ERROR(ExpectOperator("}"));
  return node;
}

ExpressionParser::Result ExpressionParser::Postfix(ExpressionPtr node) {
  while (true) {
    const Position position = Current().position;
    if (SkipOperator(".")) {
      QL_ASSIGN_OR_RETURN(node, Attribute(position, std::move(node)));
    } else if (SkipOperator("[")) {
      QL_ASSIGN_OR_RETURN(node, Subscript(position, std::move(node)));
    } else if (SkipOperator("(")) {
      QL_ASSIGN_OR_RETURN(node, Call(Kind::kCall, position, std::move(node)));
    } else {
      return node;
    }
  }
}

ExpressionParser::Result ExpressionParser::Attribute(Position position, ExpressionPtr object) {
  if (Current().kind == Token::Kind::kInteger) {
    const int64_t index = Current().integer;
    Skip();
    return Combine(Kind::kIndex, position, std::move(object),
                   Result(Literal(position, Value(index))));
  }
  ExpressionPtr node = Make(Kind::kAttribute, position);
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(object)));
  QL_ASSIGN_OR_RETURN(node->name, Word("a name"));
  return node;
}

ExpressionParser::Result ExpressionParser::Subscript(Position position, ExpressionPtr object) {
  ExpressionPtr node = Make(Kind::kIndex, position);
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(object)));
  const auto part = [&]() -> Result {
    if (IsOperator(":") || IsOperator("]")) return nullptr;
    return Conditional();
  };
  if (IsOperator("]")) return Expected("an index");
  QL_RETURN_IF_ERROR(Adopt(*node, part()));
  while (SkipOperator(":") && node->children.size() < 4) {
    node->kind = Kind::kSlice;
    QL_RETURN_IF_ERROR(Adopt(*node, part()));
  }
  if (node->kind == Kind::kSlice) node->children.resize(4);
  QL_RETURN_IF_ERROR(ExpectOperator("]"));
  return node;
}

ExpressionParser::Result ExpressionParser::Call(Kind kind, Position position,
                                                ExpressionPtr subject) {
  ExpressionPtr node = Make(kind, position);
  QL_RETURN_IF_ERROR(Adopt(*node, std::move(subject)));
  while (!IsOperator(")")) {
    if (IsOperator("*") || IsOperator("**")) return Error("unpacking arguments is not supported");
    const bool keyword = Current().kind == Token::Kind::kName &&
                         Peek().kind == Token::Kind::kOperator && Peek().text == "=";
    if (keyword) {
      std::string name = Current().text;
      Skip();
      Skip();
      QL_ASSIGN_OR_RETURN(ExpressionPtr value, Conditional());
      QL_RETURN_IF_ERROR(Grow(*node, *value));
      node->keywords.emplace_back(std::move(name), std::move(value));
    } else if (!node->keywords.empty()) {
      return Error("a positional argument after a keyword argument");
    } else {
      QL_RETURN_IF_ERROR(Adopt(*node, Conditional()));
    }
    if (!SkipOperator(",")) break;
  }
  QL_RETURN_IF_ERROR(ExpectOperator(")"));
  return node;
}

ExpressionParser::Result ExpressionParser::FiltersAndTests(ExpressionPtr node) {
  while (true) {
    const Position position = Current().position;
    if (SkipOperator("|")) {
      QL_ASSIGN_OR_RETURN(node, Filter(position, std::move(node)));
    } else if (SkipName("is")) {
      QL_ASSIGN_OR_RETURN(node, Test(position, std::move(node)));
    } else if (SkipOperator("(")) {
      QL_ASSIGN_OR_RETURN(node, Call(Kind::kCall, position, std::move(node)));
    } else {
      return node;
    }
  }
}

ExpressionParser::Result ExpressionParser::Filter(Position position, ExpressionPtr value) {
  QL_ASSIGN_OR_RETURN(std::string name, Word("a name"));
  if (!IsFilter(name)) {
    return ErrorAt(position, absl::StrCat("the filter '", name, "' is unknown here"));
  }
  ExpressionPtr node;
  if (SkipOperator("(")) {
    QL_ASSIGN_OR_RETURN(node, Call(Kind::kFilter, position, std::move(value)));
  } else {
    node = Make(Kind::kFilter, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(value)));
  }
  node->name = std::move(name);
  return node;
}

ExpressionParser::Result ExpressionParser::Test(Position position, ExpressionPtr value) {
  const bool negated = SkipName("not");
  QL_ASSIGN_OR_RETURN(std::string name, Word("a name"));
  if (!IsTest(name)) {
    return ErrorAt(position, absl::StrCat("the test '", name, "' is unknown here"));
  }
  ExpressionPtr node;
  if (SkipOperator("(")) {
    QL_ASSIGN_OR_RETURN(node, Call(Kind::kTest, position, std::move(value)));
  } else {
    node = Make(Kind::kTest, position);
    QL_RETURN_IF_ERROR(Adopt(*node, std::move(value)));
    if (StartsTestArgument()) {
      QL_ASSIGN_OR_RETURN(ExpressionPtr argument, Primary());
      QL_RETURN_IF_ERROR(Adopt(*node, Postfix(std::move(argument))));
    }
  }
  node->name = std::move(name);
  if (!negated) return node;
  ExpressionPtr inverse = Make(Kind::kNot, position);
  QL_RETURN_IF_ERROR(Adopt(*inverse, std::move(node)));
  return inverse;
}

bool ExpressionParser::StartsTestArgument() const {
  switch (Current().kind) {
    case Token::Kind::kName:
      return !IsOneOf(Current().text, kReserved);
    case Token::Kind::kString:
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return true;
    default:
      return IsOperator("[") || IsOperator("{");
  }
}

}  // namespace quantloom::jinja
