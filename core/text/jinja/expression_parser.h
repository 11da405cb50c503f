// Parses the expressions of a template: what stands in {{ }} and in the tags of statements.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "core/text/jinja/ast.h"
#include "core/text/jinja/token_reader.h"

namespace quantloom::jinja {

// Recursive descent, a function for each level of precedence. Errors are INVALID_ARGUMENT with line
// and column.
class ExpressionParser : public TokenReader {
 public:
  using TokenReader::TokenReader;

 protected:
  using Result = absl::StatusOr<ExpressionPtr>;

  // Without `conditional` an inline if is left unread.
  Result TupleOrExpression(bool conditional = true);
  Result Conditional();

 private:
  using Kind = Expression::Kind;

  // From what binds loosest to what binds tightest.

  static ExpressionPtr Make(Kind kind, Position position);
  // Adds a child, which may be null, and keeps account of the height.
  absl::Status Adopt(Expression& parent, Result child);
  absl::Status Grow(Expression& parent, const Expression& child);
  // `left` and the right operand, under a new node.
  Result Combine(Kind kind, Position position, ExpressionPtr left, Result right);
  bool EndsTuple() const;
  Result Or();
  Result And();
  Result Not();
  // The comparison operator here, consumed; empty when there is none.
  std::string SkipComparisonOperator();
  Result Comparison();
  template <size_t kCount>
  Result Arithmetic(const absl::string_view (&operators)[kCount],
                    Result (ExpressionParser::*operand)());
  Result Additive();
  Result Concatenation();
  Result Multiplicative();
  Result Power();
  Result UnaryWithFilters();
  // As in Jinja a filter takes the signed number: -1 | abs is 1.
  Result Unary(bool filters);
  Result Primary();
  static ExpressionPtr Literal(Position position, Value value);
  Result NameOrConstant();
  Result StringLiteral();
  Result Parenthesized(Position position);
  Result ListLiteral(Position position);
  Result DictLiteral(Position position);
  Result Postfix(ExpressionPtr node);
  Result Attribute(Position position, ExpressionPtr object);
  // object[index] or object[start:stop:step], after its "[".
  Result Subscript(Position position, ExpressionPtr object);
  // Arguments after the "(" of a call, a filter or a test of `subject`.
  Result Call(Kind kind, Position position, ExpressionPtr subject);
  Result FiltersAndTests(ExpressionPtr node);
  Result Filter(Position position, ExpressionPtr value);
  // is name | is not name | is name(arguments) | is name argument
  Result Test(Position position, ExpressionPtr value);
  bool StartsTestArgument() const;
};

}  // namespace quantloom::jinja
