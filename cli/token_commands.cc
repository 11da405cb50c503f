// quantloom tokenize, detokenize
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/local_text.h"
#include "cli/session.h"
#include "cli/table.h"
#include "cli/utf8.h"

namespace quantloom::cli {

using ::quantloom::v1::DetokenizeRequest;
using ::quantloom::v1::DetokenizeResponse;
using ::quantloom::v1::GenerationService;
using ::quantloom::v1::TokenizeRequest;
using ::quantloom::v1::TokenizeResponse;

namespace {

struct TokenizeArguments {
  std::string text;
  std::string model;
  bool parse_special = false;
  bool add_bos = false;
  bool show_tokens = false;
};

struct DetokenizeArguments {
  std::vector<std::string> ids;
  std::string model;
  bool skip_special = false;
};

CommandResult RunTokenize(Session& session, const TokenizeArguments& arguments) {
  absl::StatusOr<std::string> text = ArgumentOrInput(arguments.text, "TEXT");
  if (!text.ok()) return text.status();
  TokenizeRequest request;
  request.set_model(arguments.model);
  request.set_text(*std::move(text));
  request.set_parse_special(arguments.parse_special);
  request.set_add_bos(arguments.add_bos);
  const absl::StatusOr<TokenizeResponse> response = session.connection().Call(
      session.connection().generation(), &GenerationService::Stub::Tokenize, request);
  if (!response.ok()) return response.status();
  if (session.json()) {
    session.OutJson(*response);
  } else if (arguments.show_tokens) {
    Table table({{"ID", Table::Align::kRight}, {"TOKEN"}});
    for (int i = 0; i < response->ids_size() && i < response->tokens_size(); ++i) {
      const std::string& token = response->tokens(i);
      table.Add({absl::StrCat(response->ids(i)),
                 absl::StrCat(
                     "\"", IsUtf8(token) ? absl::Utf8SafeCEscape(token) : absl::CHexEscape(token),
                     "\"")});
    }
    session.console().Out(table.Render(session.console().out_color()));
  } else {
    session.console().Out(absl::StrJoin(response->ids(), " ") + "\n");
  }
  return ExitCode::kOk;
}

CommandResult RunDetokenize(Session& session, const DetokenizeArguments& arguments) {
  std::string joined = absl::StrJoin(arguments.ids, " ");
  absl::StatusOr<std::string> text = ArgumentOrInput(joined, "IDS");
  if (!text.ok()) return text.status();
  DetokenizeRequest request;
  request.set_model(arguments.model);
  request.set_skip_special(arguments.skip_special);
  for (const absl::string_view part :
       absl::StrSplit(*text, absl::ByAnyChar(" ,\t\r\n"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(part, &id)) {
      return absl::InvalidArgumentError(absl::StrCat("'", part, "' is not a token id"));
    }
    request.add_ids(id);
  }
  const absl::StatusOr<DetokenizeResponse> response = session.connection().Call(
      session.connection().generation(), &GenerationService::Stub::Detokenize, request);
  if (!response.ok()) return response.status();
  if (session.json()) {
    session.OutJson(*response);
  } else {
    Console& console = session.console();
    console.Out(absl::StrCat(
        console.out_is_terminal() ? TerminalSafe(response->text()) : response->text(), "\n"));
  }
  return ExitCode::kOk;
}

void AddTokenize(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<TokenizeArguments>();
  CLI::App* command = app.add_subcommand("tokenize", "Token ids of a text");
  command->footer(
      "Examples:\n"
      "  quantloom tokenize \"Hello, world\"\n"
      "  quantloom tokenize --tokens - <poem.txt\n"
      "  quantloom tokenize \"Hello\" | quantloom detokenize -\n");
  command->add_option("TEXT", arguments->text, "Text; - or nothing: standard input")
      ->option_text(" ");
  command
      ->add_option("-m,--model", arguments->model,
                   "Model whose tokenizer to use [the one that is loaded, if it is only one]")
      ->type_name("NAME");
  command->add_flag("--tokens", arguments->show_tokens, "A line per token, with its text");
  command->add_flag("--parse-special", arguments->parse_special,
                    "Take spellings of special tokens as those tokens");
  command->add_flag("--bos", arguments->add_bos,
                    "Begin with BOS where the model's configuration says so");
  command->callback([&session, arguments] {
    if (!HasArgumentOrInput(arguments->text)) throw CLI::RequiredError("TEXT");
    session.command = [&session, arguments] { return RunTokenize(session, *arguments); };
  });
}

void AddDetokenize(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<DetokenizeArguments>();
  CLI::App* command = app.add_subcommand("detokenize", "Text of token ids");
  command->footer(
      "Examples:\n  quantloom detokenize 19556 28 905\n  quantloom detokenize - <ids.txt\n");
  command
      ->add_option("IDS", arguments->ids,
                   "Token ids, separated by spaces or commas; - or nothing: standard input")
      ->option_text(" ");
  command
      ->add_option("-m,--model", arguments->model,
                   "Model whose tokenizer to use [the one that is loaded, if it is only one]")
      ->type_name("NAME");
  command->add_flag("--skip-special", arguments->skip_special, "Leave special tokens out");
  command->callback([&session, arguments] {
    if (!HasArgumentOrInput(absl::StrJoin(arguments->ids, ""))) throw CLI::RequiredError("IDS");
    session.command = [&session, arguments] { return RunDetokenize(session, *arguments); };
  });
}

}  // namespace

void AddTokenCommands(CLI::App& app, Session& session) {
  AddTokenize(app, session);
  AddDetokenize(app, session);
}

}  // namespace quantloom::cli
