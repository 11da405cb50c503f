// `bench`: runs the program quantloom-bench, which is installed beside this one. It links the
// engine, of which the client knows nothing.
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cli/session.h"

namespace quantloom::cli {
namespace {

constexpr char kProgram[] = "quantloom-bench";

// This process becomes the program, so terminal, signals and exit status are its own. Returns only
// when it cannot.
absl::Status BecomeBench(std::vector<std::string> arguments) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    return absl::InternalError(
        absl::StrCat("cannot tell where this program is: ", error.message()));
  }
  std::string program = (self.parent_path() / kProgram).string();
  std::vector<char*> pointers = {program.data()};
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  execv(program.c_str(), pointers.data());
  if (errno == ENOENT) {
    return absl::NotFoundError(absl::StrCat("'bench' is the program ", kProgram,
                                            ", which is not installed beside this one: '", program,
                                            "' does not exist"));
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot run '", program, "'"));
}

}  // namespace

void AddBenchCommand(CLI::App& app, Session& session) {
  CLI::App* command = app.add_subcommand(
      "bench", "Measure how fast a model runs on this machine, without a service");
  // Whatever follows is the program's, --help too.
  command->set_help_flag();
  command->prefix_command();
  command->fallthrough(false);
  command->callback([&session, command] {
    session.command = [&session, command]() -> CommandResult {
      std::vector<std::string> arguments = command->remaining();
      if (session.json()) arguments.insert(arguments.begin(), "--json");
      return BecomeBench(std::move(arguments));
    };
  });
}

}  // namespace quantloom::cli
