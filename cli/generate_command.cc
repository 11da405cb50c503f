// quantloom generate
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "cli/generation_options.h"
#include "cli/local_text.h"
#include "cli/session.h"
#include "cli/utf8.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {

using ::quantloom::v1::GeneratedToken;
using ::quantloom::v1::GenerateRequest;
using ::quantloom::v1::GenerateResponse;

namespace {

constexpr char kGenerateFooter[] =
    "Text appears as it is generated, on standard output; a newline is added at its end. With "
    "--json there\n"
    "is one object, at the end. Ctrl-C ends the generation.\n\n"
    "Examples:\n"
    "  quantloom generate \"The three primary colours are\"\n"
    "  quantloom generate --chat --stats -n 100 \"Why is the sky blue?\"\n"
    "  git diff | quantloom generate --chat --system \"Write a commit message for this.\" -\n"
    "  quantloom generate --temperature 0.8 --top-p 0.95 --seed 7 \"Once upon a time\"\n"
    "  quantloom generate --json --logprobs 5 -n 1 \"2 + 2 =\" | jq '.tokens[0].top'\n";

struct GenerateArguments {
  GenerateRequest request;
  std::string prompt;
  std::vector<int32_t> prompt_tokens;
  bool chat = false;
  std::string system;
  bool statistics = false;
};

absl::Status SetInput(const GenerateArguments& arguments, GenerateRequest& request) {
  if (!arguments.prompt_tokens.empty()) {
    request.mutable_prompt_tokens()->mutable_ids()->Add(arguments.prompt_tokens.begin(),
                                                        arguments.prompt_tokens.end());
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> text = ArgumentOrInput(arguments.prompt, "PROMPT");
  if (!text.ok()) return text.status();
  if (!arguments.chat && arguments.system.empty()) {
    request.set_prompt(*std::move(text));
    return absl::OkStatus();
  }
  if (!arguments.system.empty()) {
    auto* message = request.mutable_chat()->add_messages();
    message->set_role("system");
    message->set_content(arguments.system);
  }
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(*std::move(text));
  return absl::OkStatus();
}

nlohmann::ordered_json TokenJson(const GeneratedToken& token) {
  nlohmann::ordered_json json = {{"id", token.id()}};
  if (token.has_logprob()) json["logprob"] = token.logprob();
  for (const auto& top : token.top()) {
    json["top"].push_back(
        {{"id", top.id()}, {"logprob", top.logprob()}, {"token", absl::Base64Escape(top.token())}});
  }
  return json;
}

// The whole answer as one object.
class JsonAnswer {
 public:
  void Add(const GenerateResponse& response) {
    if (response.has_echo()) {
      echo_ = {{"text", response.echo().text()},
               {"token_ids", std::vector<int32_t>(response.echo().token_ids().begin(),
                                                  response.echo().token_ids().end())}};
    }
    text_ += response.text();
    for (const GeneratedToken& token : response.tokens()) tokens_.push_back(TokenJson(token));
  }

  std::string Render(const GenerateResponse& last, const GenerationTimes& times) const {
    nlohmann::ordered_json json = {{"text", text_},
                                   {"finish_reason", FinishReasonName(last.finish_reason())}};
    if (!last.stop_sequence().empty()) json["stop_sequence"] = last.stop_sequence();
    if (last.has_usage()) {
      json["prompt_tokens"] = last.usage().prompt_tokens();
      json["cached_tokens"] = last.usage().cached_tokens();
      json["seed"] = absl::StrCat(last.usage().seed());  // past 2^53 JSON numbers lose digits
    }
    json["generated_tokens"] = times.tokens;
    json["tokens_per_second"] = times.TokensPerSecond();
    if (times.tokens > 0) {
      json["time_to_first_token_seconds"] = absl::ToDoubleSeconds(times.TimeToFirstToken());
    }
    if (!echo_.is_null()) json["echo"] = echo_;
    json["tokens"] = tokens_;
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }

 private:
  std::string text_;
  nlohmann::ordered_json echo_;
  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::array();
};

CommandResult RunGenerate(Session& session, const GenerateArguments& arguments) {
  GenerateRequest request = arguments.request;
  if (absl::Status status = SetInput(arguments, request); !status.ok()) return status;
  Console& console = session.console();
  Connection& connection = session.connection();
  CatchInterrupts();
  const InterruptScope interrupts([&] { connection.cancellation().Cancel(); });

  JsonAnswer json;
  GenerateResponse last;
  GenerationTimes times;
  bool line_open = false;
  const absl::Status status = StreamGeneration(
      connection, request,
      [&](const GenerateResponse& response) {
        last = response;
        if (session.json()) return json.Add(response);
        const std::string text = response.echo().text() + response.text();
        if (text.empty()) return;
        console.Out(console.out_is_terminal() ? TerminalSafe(text) : text);
        line_open = text.back() != '\n';
      },
      times);
  if (line_open) console.Out("\n");
  if (!status.ok()) return status;
  if (session.json()) console.Out(json.Render(last, times) + "\n");
  if (arguments.statistics) session.Note(FormatStatistics(last, times));
  return connection.cancellation().cancelled() ? ExitCode::kInterrupted : ExitCode::kOk;
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text, or answer one message");
  command->footer(kGenerateFooter);
  CLI::Option* prompt = command
                            ->add_option("PROMPT", arguments->prompt,
                                         "Text to continue; - or nothing: standard input")
                            ->option_text(" ");
  CLI::Option* tokens =
      command
          ->add_option("--prompt-tokens", arguments->prompt_tokens,
                       "Token ids to continue, separated by commas, instead of PROMPT")
          ->delimiter(',')
          ->allow_extra_args(false)
          ->option_text("IDS")
          ->excludes(prompt);
  command
      ->add_flag("--chat", arguments->chat,
                 "Send PROMPT as a user's message through the chat template")
      ->excludes(tokens);
  command->add_option("--system", arguments->system, "System message before it; implies --chat")
      ->type_name("TEXT")
      ->excludes(tokens);
  command->add_flag_function(
      "--echo", [arguments](int64_t) { arguments->request.set_echo(true); },
      "Write the prompt first, as the model reads it");
  command->add_flag("--stats", arguments->statistics,
                    "Counts and speed on standard error at the end");
  AddGenerationOptions(*command, arguments->request);
  command
      ->add_option_function<uint32_t>(
          "--logprobs",
          [&session, arguments](uint32_t count) { arguments->request.set_logprobs(count); },
          "With --json: log-probabilities of the N most likely tokens at each place, up to 20")
      ->type_name("N");
  command->callback([&session, arguments] {
    if (arguments->prompt_tokens.empty() && !HasArgumentOrInput(arguments->prompt)) {
      throw CLI::RequiredError("PROMPT");
    }
    session.command = [&session, arguments] { return RunGenerate(session, *arguments); };
  });
}

}  // namespace quantloom::cli
