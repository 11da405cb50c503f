// What every command shares: the global options, the two outputs, the connection.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "cli/channel_security.h"
#include "cli/connection.h"
#include "cli/console.h"
#include "cli/exit_code.h"
#include "google/protobuf/message.h"

namespace CLI {
class App;
}

namespace quantloom::cli {

// Result of a command: its exit code, or the error that is to be reported.
using CommandResult = absl::StatusOr<ExitCode>;

class Session {
 public:
  Console& console() { return console_; }
  bool json() const { return json_; }
  Connection& connection() { return *connection_; }

  // A message as one line of JSON on standard output: protobuf's JSON mapping, names as in the
  // .proto files, fields with default values included.
  void OutJson(const google::protobuf::Message& message);

  // A remark on standard error, unless output is for programs.
  void Note(std::string_view text);

  // Options of the command line; read by Connect().
  ConnectionOptions connection_options;
  SecurityOptions security_options;
  void set_json(bool json) { json_ = json; }
  // Prepares the connection, which is made when it is used. Errors of LoadSecurity.
  absl::Status Connect();

  // What the chosen subcommand does; set while the command line is parsed.
  std::function<CommandResult()> command;

 private:
  Console console_;
  bool json_ = false;
  std::unique_ptr<Connection> connection_;
};

// One function per group of commands: adds its subcommands to `app`. Their options live as long as
// the App.
void AddQuantizeCommand(CLI::App& app, Session& session);
void AddJobCommands(CLI::App& app, Session& session);
void AddGenerateCommand(CLI::App& app, Session& session);
void AddChatCommand(CLI::App& app, Session& session);
void AddScoreCommand(CLI::App& app, Session& session);
void AddLoadCommand(CLI::App& app, Session& session);
void AddTokenCommands(CLI::App& app, Session& session);
void AddModelCommands(CLI::App& app, Session& session);
void AddInspectCommand(CLI::App& app, Session& session);
void AddAccessTokenCommand(CLI::App& app, Session& session);
void AddBenchCommand(CLI::App& app, Session& session);

}  // namespace quantloom::cli
