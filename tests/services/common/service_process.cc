#include "tests/services/common/service_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "core/base/file.h"
#include "gtest/gtest.h"

namespace quantloom::testing {
namespace {

int ReadPort(const std::filesystem::path& file) {
  int port = 0;
  const std::string text = ReadFile(file).value_or("");
  return absl::SimpleAtoi(absl::StripSuffix(text, "\n"), &port) ? port : 0;
}

int ExitCode(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

}  // namespace

ServiceProcess::ServiceProcess(const std::string& program, std::vector<std::string> arguments,
                               const std::filesystem::path& directory, uint64_t max_file_bytes)
    : log_(directory / "log") {
  const std::filesystem::path port_file = directory / "port";
  const std::filesystem::path metrics_port_file = directory / "metrics_port";
  std::filesystem::remove(port_file);
  std::filesystem::remove(metrics_port_file);
  arguments.insert(arguments.begin(),
                   {program, "--address=127.0.0.1:0", "--metrics-address=127.0.0.1:0",
                    absl::StrCat("--port-file=", port_file.string()),
                    absl::StrCat("--metrics-port-file=", metrics_port_file.string())});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int error = posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    ADD_FAILURE() << "cannot start " << program;
    ended_ = true;
    return;
  }
  if (max_file_bytes > 0) {
    const rlimit limit{max_file_bytes, max_file_bytes};
    EXPECT_EQ(prlimit(pid_, RLIMIT_FSIZE, &limit, nullptr), 0);
  }
  while (port_ == 0 && !Poll()) {
    absl::SleepFor(absl::Milliseconds(5));
    port_ = ReadPort(port_file);
  }
  metrics_port_ = ReadPort(metrics_port_file);
}

ServiceProcess::~ServiceProcess() {
  if (ended_) return;
  Signal(SIGKILL);
  Wait();
}

void ServiceProcess::Signal(int signal) const { kill(pid_, signal); }

bool ServiceProcess::Poll() {
  int status = 0;
  if (!ended_ && waitpid(pid_, &status, WNOHANG) == pid_) {
    ended_ = true;
    exit_code_ = ExitCode(status);
  }
  return ended_;
}

int ServiceProcess::Wait() {
  int status = 0;
  if (!ended_ && waitpid(pid_, &status, 0) == pid_) {
    ended_ = true;
    exit_code_ = ExitCode(status);
  }
  return exit_code_;
}

std::string ServiceProcess::Log() const { return ReadFile(log_).value_or(""); }

}  // namespace quantloom::testing
