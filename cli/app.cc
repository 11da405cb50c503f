#include "cli/app.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "cli/help_formatter.h"
#include "cli/rpc_error.h"
#include "cli/session.h"
#include "cli/units.h"
#include "command_line/empty_values.h"

namespace quantloom::cli {
namespace {

constexpr char kProgramFooter[] =
    "Exit status: 0 done, 1 refused or failed, 2 wrong command line, 3 no connection, 4 job "
    "failed or\n"
    "cancelled, 5 timeout, 130 interrupted.\n\n"
    "Global options may stand before or after the command. Examples:\n"
    "  quantloom quantize SmolLM2-135M smollm2-2bit --recipe icquant:bits=2,outliers=0.05\n"
    "  quantloom generate --model smollm2-2bit \"Once upon a time\"\n"
    "  QUANTLOOM_SERVER=gpu1:7102 quantloom chat\n"
    "  quantloom jobs --json | jq -r '.jobs[].name'\n";

void AddSecurityOptions(CLI::App& app, SecurityOptions& security) {
  app.add_flag("--tls", security.tls, "Connect with TLS")->envname("QUANTLOOM_TLS");
  app.add_option("--tls-ca", security.ca_file,
                 "PEM file of the authorities that sign the services' certificates; implies --tls "
                 "[the system's]")
      ->envname("QUANTLOOM_TLS_CA")
      ->type_name("FILE");
  app.add_option("--tls-certificate", security.certificate_file,
                 "PEM file of a certificate to show to the services; implies --tls")
      ->type_name("FILE");
  app.add_option("--tls-key", security.key_file, "PEM file of its private key")->type_name("FILE");
  app.add_option("--token-file", security.token_file,
                 "File of the token to show to the services [the variable QUANTLOOM_TOKEN]")
      ->type_name("FILE");
  // From the environment alone: other users see command lines.
  if (const char* token = std::getenv("QUANTLOOM_TOKEN")) security.token = token;
}

void AddGlobalOptions(CLI::App& app, Session& session) {
  ConnectionOptions& connection = session.connection_options;
  app.add_option("--quantizer", connection.quantizer, "Address of the quantization service")
      ->envname("QUANTLOOM_QUANTIZER")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  app.add_option("--server", connection.server, "Address of the generation server")
      ->envname("QUANTLOOM_SERVER")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  AddSecurityOptions(app, session.security_options);
  app.add_option_function<std::string>(
         "--timeout",
         [&connection](const std::string& text) {
           if (!ParseTimeout(text, &connection.timeout)) {
             throw CLI::ValidationError("--timeout",
                                        "'" + text + "' is not a duration like 30s or 5m");
           }
         },
         "Time a call may take, e.g. 90s or 5m; by default 60s, and without limit for quantize, "
         "watch, generate, chat, model load and score --source")
      ->type_name("DURATION");
  app.add_option(
         "--retry", connection.retries,
         "Further tries when the service is busy (after the pause that it asks for) or unavailable")
      ->check(CLI::Range(0, 1'000'000))
      ->option_text("N");
  app.add_flag_function(
      "--json", [&session](int64_t) { session.set_json(true); },
      "Results as JSON on standard output, errors as JSON on standard error");
  app.add_option_function<ColorMode>(
         "--color", [&session](ColorMode mode) { session.console().set_color_mode(mode); },
         "auto (a terminal, and NO_COLOR not set), always, never")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, ColorMode>{{"auto", ColorMode::kAuto},
                                                                   {"always", ColorMode::kAlways},
                                                                   {"never", ColorMode::kNever}},
                                  CLI::ignore_case))
      ->option_text("WHEN");
  app.set_version_flag("--version", std::string("quantloom ") + QUANTLOOM_VERSION);
}

// The subcommand that was being parsed, for "see quantloom jobs --help".
std::string CommandPath(const CLI::App& app) {
  std::string path = "quantloom";
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    absl::StrAppend(&path, " ", at->get_name());
  }
  return path;
}

int ReportUsage(const CLI::App& app, Session& session, const CLI::ParseError& error) {
  if (session.json()) {
    session.console().Err(
        FormatErrorJson(absl::InvalidArgumentError(error.what()), ExitCode::kUsage) + "\n");
  } else {
    session.console().Err(
        absl::StrCat("quantloom: ", error.what(), "\nSee '", CommandPath(app), " --help'.\n"));
  }
  return static_cast<int>(ExitCode::kUsage);
}

int ReportError(Session& session, const absl::Status& status) {
  Console& console = session.console();
  if (session.json()) {
    console.Err(FormatErrorJson(status, ExitCodeFor(status)) + "\n");
  } else {
    console.Err(absl::StrCat(Styled(console.err_color(), "1;31", "error:"), " ",
                             FormatError(status), "\n"));
  }
  return static_cast<int>(ExitCodeFor(status));
}

}  // namespace

int Main(int argc, const char* const* argv) {
  Session session;
  CLI::App app("Quantizes language models to 1 - 4 bits and talks to the ones that are served.",
               "quantloom");
  app.footer(kProgramFooter);
  app.formatter(std::make_shared<HelpFormatter>());  // inherited by the commands
  app.require_subcommand(1);
  app.fallthrough();  // inherited: global options are understood after the subcommand, too
  AddGlobalOptions(app, session);
  AddQuantizeCommand(app, session);
  AddJobCommands(app, session);
  AddGenerateCommand(app, session);
  AddChatCommand(app, session);
  AddScoreCommand(app, session);
  AddLoadCommand(app, session);
  AddTokenCommands(app, session);
  AddModelCommands(app, session);
  AddInspectCommand(app, session);
  AddAccessTokenCommand(app, session);
  AddBenchCommand(app, session);
  try {
    std::vector<std::string> arguments = SeparateEmptyValues(app, {argv + 1, argv + argc});
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
    app.parse(std::move(arguments));
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return ReportUsage(app, session, error);
  }

  if (const absl::Status status = session.Connect(); !status.ok()) {
    return ReportError(session, status);
  }
  const CommandResult result = session.command();
  if (!result.ok()) return ReportError(session, result.status());
  if (!session.console().out_ok()) {
    return ReportError(session,
                       absl::DataLossError("standard output: not everything could be written"));
  }
  return static_cast<int>(*result);
}

}  // namespace quantloom::cli
