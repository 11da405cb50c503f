#include "core/text/jinja/parser.h"

#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/text/jinja/expression_parser.h"
#include "core/text/jinja/lexer.h"

namespace quantloom::jinja {
namespace {

// Statements; their expressions are the base's.
class Parser final : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  absl::StatusOr<std::vector<Statement>> Run() {
    QL_ASSIGN_OR_RETURN(std::vector<Statement> statements, Body({}));
    return statements;
  }

 private:
  static Statement Make(Statement::Kind kind, Position position, std::string text = "") {
    Statement statement;
    statement.kind = kind;
    statement.position = position;
    statement.text = std::move(text);
    return statement;
  }

  // Statements up to a tag that begins with one of `ends`, which is left unread after its "{%"; up
  // to the end of the template when there are none.
  absl::StatusOr<std::vector<Statement>> Body(const std::vector<absl::string_view>& ends) {
    const Nesting nesting(*this);
    QL_RETURN_IF_ERROR(nesting.Check());
    std::vector<Statement> statements;
    while (Current().kind != Token::Kind::kEnd) {
      const Position position = Current().position;
      if (Current().kind == Token::Kind::kText) {
        statements.push_back(Make(Statement::Kind::kText, position, Current().text));
        Skip();
      } else if (Current().kind == Token::Kind::kOutputBegin) {
        Skip();
        Statement output = Make(Statement::Kind::kOutput, position);
        QL_RETURN_IF_ERROR(AddExpression(output, TupleOrExpression()));
        QL_RETURN_IF_ERROR(Expect(Token::Kind::kOutputEnd, "the end of the tag"));
        statements.push_back(std::move(output));
      } else {
        Skip();  // kBlockBegin, the only kind left outside of tags
        if (Current().kind == Token::Kind::kName && IsOneOf(Current().text, ends)) {
          return statements;
        }
        QL_RETURN_IF_ERROR(Block(statements));
      }
    }
    if (ends.empty()) return statements;
    return Expected(absl::StrCat("'", ends.back(), "'"));
  }

  absl::Status AddExpression(Statement& statement, Result expression) {
    if (!expression.ok()) return expression.status();
    statement.expressions.push_back(*std::move(expression));
    return absl::OkStatus();
  }

  absl::Status AddBranch(Statement& statement, const std::vector<absl::string_view>& ends) {
    QL_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "the end of the tag"));
    QL_ASSIGN_OR_RETURN(std::vector<Statement> body, Body(ends));
    statement.branches.push_back(std::move(body));
    return absl::OkStatus();
  }

  absl::Status Block(std::vector<Statement>& statements) {
    const Position position = Current().position;
    QL_ASSIGN_OR_RETURN(const std::string name, Word("a statement"));
    if (name == "if") return If(position, statements);
    if (name == "for") return For(position, statements);
    if (name == "set") return Set(position, statements);
    if (name == "macro") return Macro(position, statements);
    if (name == "generation") return Generation(statements);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return ErrorAt(position, absl::StrCat("'", name, "' outside a loop"));
      statements.push_back(
          Make(name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, position));
      return Expect(Token::Kind::kBlockEnd, "the end of the tag");
    }
    return ErrorAt(position, absl::StrCat("the statement '", name, "' is unknown here"));
  }

  absl::Status If(Position position, std::vector<Statement>& statements) {
    Statement statement = Make(Statement::Kind::kIf, position);
    do {
      QL_RETURN_IF_ERROR(AddExpression(statement, TupleOrExpression()));
      QL_RETURN_IF_ERROR(AddBranch(statement, {"elif", "else", "endif"}));
    } while (SkipName("elif"));
    if (SkipName("else")) QL_RETURN_IF_ERROR(AddBranch(statement, {"endif"}));
    return End("endif", std::move(statement), statements);
  }

  absl::Status End(absl::string_view name, Statement statement,
                   std::vector<Statement>& statements) {
    if (!SkipName(name)) return Expected(absl::StrCat("'", name, "'"));
    statements.push_back(std::move(statement));
    return Expect(Token::Kind::kBlockEnd, "the end of the tag");
  }

  absl::Status For(Position position, std::vector<Statement>& statements) {
    Statement statement = Make(Statement::Kind::kFor, position);
    QL_ASSIGN_OR_RETURN(statement.targets, Targets());
    if (!SkipName("in")) return Expected("'in'");
    // An inline if would take the loop's own one: for x in xs if x.
    QL_RETURN_IF_ERROR(AddExpression(statement, TupleOrExpression(/*conditional=*/false)));
    statement.expressions.push_back(nullptr);
    if (SkipName("if")) {
      QL_ASSIGN_OR_RETURN(statement.expressions[1], Conditional());
    }
    if (IsName("recursive")) return Error("recursive loops are not supported");
    ++loops_;
    const absl::Status body = AddBranch(statement, {"else", "endfor"});
    --loops_;
    QL_RETURN_IF_ERROR(body);
    if (SkipName("else")) QL_RETURN_IF_ERROR(AddBranch(statement, {"endfor"}));
    return End("endfor", std::move(statement), statements);
  }

  // a | a, b | (a, b)
  absl::StatusOr<std::vector<std::string>> Targets() {
    const bool parenthesized = SkipOperator("(");
    std::vector<std::string> targets;
    do {
      QL_ASSIGN_OR_RETURN(std::string name, NewName());
      targets.push_back(std::move(name));
    } while (SkipOperator(",") && Current().kind == Token::Kind::kName && !IsName("in"));
    if (parenthesized) QL_RETURN_IF_ERROR(ExpectOperator(")"));
    return targets;
  }

  absl::Status Set(Position position, std::vector<Statement>& statements) {
    Statement statement = Make(Statement::Kind::kSet, position);
    QL_ASSIGN_OR_RETURN(statement.targets, Targets());
    if (statement.targets.size() == 1 && SkipOperator(".")) {
      statement.text = statement.targets[0];
      QL_ASSIGN_OR_RETURN(statement.targets[0], NewName());
    }
    if (SkipOperator("=")) {
      QL_RETURN_IF_ERROR(AddExpression(statement, TupleOrExpression()));
      statements.push_back(std::move(statement));
      return Expect(Token::Kind::kBlockEnd, "the end of the tag");
    }
    if (statement.targets.size() != 1 || !statement.text.empty()) return Expected("'='");
    statement.kind = Statement::Kind::kCapture;
    QL_RETURN_IF_ERROR(AddBranch(statement, {"endset"}));
    return End("endset", std::move(statement), statements);
  }

  absl::Status Macro(Position position, std::vector<Statement>& statements) {
    // A macro sees the template's own variables when it runs, nobody else's.
    if (loops_ > 0 || in_macro_) {
      return ErrorAt(position, "a macro inside a loop or a macro is not supported");
    }
    Statement statement = Make(Statement::Kind::kMacro, position);
    QL_ASSIGN_OR_RETURN(statement.text, NewName());
    QL_RETURN_IF_ERROR(ExpectOperator("("));
    while (!IsOperator(")")) {
      QL_ASSIGN_OR_RETURN(std::string parameter, NewName());
      statement.targets.push_back(std::move(parameter));
      statement.expressions.push_back(nullptr);
      if (SkipOperator("=")) {
        QL_ASSIGN_OR_RETURN(statement.expressions.back(), Conditional());
      } else if (statement.expressions.size() > 1 &&
                 statement.expressions[statement.expressions.size() - 2] != nullptr) {
        return Error("a parameter without a default after one with a default");
      }
      if (!SkipOperator(",")) break;
    }
    QL_RETURN_IF_ERROR(ExpectOperator(")"));
    in_macro_ = true;
    const absl::Status body = AddBranch(statement, {"endmacro"});
    in_macro_ = false;
    QL_RETURN_IF_ERROR(body);
    return End("endmacro", std::move(statement), statements);
  }

  // {% generation %} marks what the assistant wrote, for training; it does not change the text.
  absl::Status Generation(std::vector<Statement>& statements) {
    QL_RETURN_IF_ERROR(Expect(Token::Kind::kBlockEnd, "the end of the tag"));
    QL_ASSIGN_OR_RETURN(std::vector<Statement> body, Body({"endgeneration"}));
    std::move(body.begin(), body.end(), std::back_inserter(statements));
    Skip();
    return Expect(Token::Kind::kBlockEnd, "the end of the tag");
  }

  int loops_ = 0;  // for statements around
  bool in_macro_ = false;
};

}  // namespace

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source) {
  QL_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace quantloom::jinja
