// quantloom token new
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "access_token/access_token.h"
#include "cli/session.h"
#include "cli/units.h"
#include "nlohmann/json.hpp"

namespace quantloom::cli {
namespace {

struct NewTokenArguments {
  std::string name;
  std::vector<std::string> roles;
  absl::Duration lifetime = absl::InfiniteDuration();
  std::optional<double> requests_per_second;
  std::optional<double> burst;
  std::optional<int> concurrent_requests;
  std::string append_to;
};

// The token file's line for a token.
absl::StatusOr<std::string> Entry(const NewTokenArguments& arguments, const std::string& token) {
  const absl::StatusOr<std::string> salt = NewTokenSalt();
  if (!salt.ok()) return salt.status();
  nlohmann::ordered_json entry = {{"name", arguments.name},
                                  {"salt", *salt},
                                  {"sha256", TokenDigest(*salt, token)},
                                  {"roles", arguments.roles}};
  if (arguments.lifetime != absl::InfiniteDuration()) {
    entry["expires"] = absl::FormatTime("%Y-%m-%d%ET%H:%M:%SZ", absl::Now() + arguments.lifetime,
                                        absl::UTCTimeZone());
  }
  if (arguments.requests_per_second) {
    entry["requests_per_second"] = *arguments.requests_per_second;
  }
  if (arguments.burst) entry["burst"] = *arguments.burst;
  if (arguments.concurrent_requests) {
    entry["concurrent_requests"] = *arguments.concurrent_requests;
  }
  return entry.dump();
}

// In one write, so that a service that reads the file meanwhile sees the whole line or nothing.
absl::Status AppendLine(const std::string& path, const std::string& line) {
  const auto error = [&] {
    return absl::UnknownError(absl::StrCat("--append-to: '", path, "': ", std::strerror(errno)));
  };
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) return error();
  // A last line without its end would run into this one.
  std::string text = line + "\n";
  char last = '\n';
  const off_t size = lseek(file, 0, SEEK_END);
  if (size > 0 && pread(file, &last, 1, size - 1) == 1 && last != '\n') text.insert(0, "\n");
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const absl::Status status = written ? absl::OkStatus() : error();
  close(file);
  return status;
}

CommandResult RunNewToken(Session& session, const NewTokenArguments& arguments) {
  const absl::StatusOr<std::string> token = NewToken(arguments.name);
  if (!token.ok()) return token.status();
  const absl::StatusOr<std::string> entry = Entry(arguments, *token);
  if (!entry.ok()) return entry.status();
  if (!arguments.append_to.empty()) {
    const absl::Status appended = AppendLine(arguments.append_to, *entry);
    if (!appended.ok()) return appended;
  }
  Console& console = session.console();
  if (session.json()) {
    console.Out(absl::StrCat("{\"token\":\"", *token, "\",\"entry\":", *entry, "}\n"));
  } else if (!arguments.append_to.empty()) {
    console.Out(*token + "\n");
  } else {
    console.Out(absl::StrCat("Token, for the client (it is kept nowhere else):\n", *token,
                             "\n\nLine for the services' token-file:\n", *entry, "\n"));
  }
  return ExitCode::kOk;
}

}  // namespace

void AddAccessTokenCommand(CLI::App& app, Session& session) {
  CLI::App* group = app.add_subcommand("token", "Make bearer tokens for callers of the services");
  group->require_subcommand(1);
  auto arguments = std::make_shared<NewTokenArguments>();
  CLI::App* command = group->add_subcommand("new", "Make a token and its line for a token file");
  command->footer(
      "The services keep a salted digest of the token. Example:\n"
      "  quantloom token new --name alice --role generate --expires-in 2160h \\\n"
      "    --append-to tokens.jsonl >alice.token\n");
  command->add_option("--name", arguments->name, "Whose token it is: letters, digits, . _ -")
      ->required()
      ->type_name("NAME");
  command
      ->add_option("--role", arguments->roles,
                   "What it may be used for: quantize, generate, admin; may be given several times")
      ->required()
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"quantize", "generate", "admin"}))
      ->type_name("ROLE");
  command
      ->add_option_function<std::string>(
          "--expires-in",
          [arguments](const std::string& text) {
            if (!absl::ParseDuration(text, &arguments->lifetime) ||
                arguments->lifetime <= absl::ZeroDuration()) {
              throw CLI::ValidationError("--expires-in",
                                         "'" + text + "' is not a duration like 2160h or 30m");
            }
          },
          "How long it is good, e.g. 2160h [for ever]")
      ->type_name("DURATION");
  command
      ->add_option("--requests-per-second", arguments->requests_per_second,
                   "Calls a second, on average; 0: any number [what the service gives all]")
      ->check(CLI::Range(0.0, 1e6))
      ->option_text("N");
  command->add_option("--burst", arguments->burst, "Calls that may come at once within that")
      ->check(CLI::Range(0.0, 1e6))
      ->option_text("N");
  command
      ->add_option("--concurrent-requests", arguments->concurrent_requests,
                   "Calls at the same time; 0: any number [what the service gives all]")
      ->check(CLI::Range(0, 1 << 20))
      ->option_text("N");
  command
      ->add_option("--append-to", arguments->append_to,
                   "Token file to add the line to; the output is the token alone")
      ->type_name("FILE");
  command->callback([&session, arguments] {
    session.command = [&session, arguments] { return RunNewToken(session, *arguments); };
  });
}

}  // namespace quantloom::cli
