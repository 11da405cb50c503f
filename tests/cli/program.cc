#include "tests/cli/program.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantloom::cli {
namespace {

constexpr std::chrono::seconds kPatience{60};

// A failure here is one of the machine, not of what is tested.
void Require(bool done, const char* what) {
  if (done) return;
  perror(what);
  std::abort();
}

std::pair<int, int> Pipe() {
  std::array<int, 2> ends{};
  Require(pipe2(ends.data(), O_CLOEXEC) == 0, "pipe2");
  return {ends[0], ends[1]};
}

// Nothing of the machine's own settings that changes what the program prints.
std::vector<std::string> Environment(const ProgramOptions& options) {
  std::map<std::string, std::string> variables = {
      {"TERM", "xterm"}, {"TZ", "UTC"}, {"LANG", "C.UTF-8"}};
  for (const char* name :
       {"PATH", "HOME", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name)) variables[name] = value;
  }
  for (const auto& [name, value] : options.environment) variables[name] = value;
  std::vector<std::string> list;
  for (const auto& [name, value] : variables) list.push_back(absl::StrCat(name, "=", value));
  return list;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Program::Program(const std::vector<std::string>& arguments, ProgramOptions options) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  std::vector<int> child_ends;
  std::vector<std::pair<int, Capture*>> captures;
  if (options.terminal) {
    int primary = -1;
    int secondary = -1;
    winsize size{};
    size.ws_col = static_cast<unsigned short>(options.columns);
    size.ws_row = 24;
    termios settings{};
    Require(openpty(&primary, &secondary, nullptr, nullptr, &size) == 0, "openpty");
    Require(tcgetattr(secondary, &settings) == 0, "tcgetattr");
    settings.c_oflag &= ~static_cast<tcflag_t>(OPOST);  // newlines as they are written
    settings.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    Require(tcsetattr(secondary, TCSANOW, &settings) == 0, "tcsetattr");
    fcntl(primary, F_SETFD, FD_CLOEXEC);
    fcntl(secondary, F_SETFD, FD_CLOEXEC);
    for (const int stream : {0, 1, 2})
      posix_spawn_file_actions_adddup2(&actions, secondary, stream);
    child_ends = {secondary};
    captures = {{primary, &output_}};
    input_ = dup(primary);
    fcntl(input_, F_SETFD, FD_CLOEXEC);
    error_.ended = true;
  } else {
    const auto [input_read, input_write] = Pipe();
    const auto [error_read, error_write] = Pipe();
    posix_spawn_file_actions_adddup2(&actions, input_read, 0);
    posix_spawn_file_actions_adddup2(&actions, error_write, 2);
    child_ends = {input_read, error_write};
    captures = {{error_read, &error_}};
    if (options.output_file.empty()) {
      const auto [output_read, output_write] = Pipe();
      posix_spawn_file_actions_adddup2(&actions, output_write, 1);
      child_ends.push_back(output_write);
      captures.emplace_back(output_read, &output_);
    } else {
      posix_spawn_file_actions_addopen(&actions, 1, options.output_file.c_str(), O_WRONLY, 0);
      output_.ended = true;
    }
    input_ = input_write;
  }
  std::vector<std::string> command = {options.program.empty() ? QUANTLOOM_PROGRAM
                                                              : options.program};
  command.insert(command.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment = Environment(options);
  const int spawned = posix_spawn(&pid_, command[0].c_str(), &actions, nullptr,
                                  Pointers(command).data(), Pointers(environment).data());
  Require(spawned == 0, "posix_spawn");
  posix_spawn_file_actions_destroy(&actions);
  for (const int end : child_ends) close(end);
  for (const auto& [descriptor, capture] : captures) {
    collectors_.emplace_back(
        [this, descriptor = descriptor, capture = capture] { Collect(descriptor, *capture); });
  }
  Write(options.input);
  if (!options.keep_input_open && !options.terminal) {
    close(input_);
    input_ = -1;
  }
}

Program::~Program() {
  if (!waited_) kill(pid_, SIGKILL);
  Wait();
  if (input_ >= 0) close(input_);
}

void Program::Collect(int descriptor, Capture& capture) {
  std::array<char, 4096> block;
  for (;;) {
    const ssize_t bytes = read(descriptor, block.data(), block.size());
    if (bytes < 0 && errno == EINTR) continue;
    const std::lock_guard lock(mutex_);
    if (bytes <= 0) break;  // a terminal whose other end is closed gives EIO
    capture.text.append(block.data(), static_cast<size_t>(bytes));
    changed_.notify_all();
  }
  close(descriptor);
  const std::lock_guard lock(mutex_);
  capture.ended = true;
  changed_.notify_all();
}

int Program::Wait() {
  if (waited_) return status_;
  int status = 0;
  const auto until = std::chrono::steady_clock::now() + kPatience;
  pid_t ended = 0;
  while ((ended = waitpid(pid_, &status, WNOHANG)) == 0) {
    if (std::chrono::steady_clock::now() > until) kill(pid_, SIGKILL);  // shows as 137
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  for (std::thread& collector : collectors_) collector.join();
  waited_ = true;
  status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return status_;
}

bool Program::Await(const Capture& capture, const std::string& text) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kPatience,
                    [&] { return capture.ended || absl::StrContains(capture.text, text); });
  return absl::StrContains(capture.text, text);
}

bool Program::AwaitOutput(const std::string& text) { return Await(output_, text); }
bool Program::AwaitError(const std::string& text) { return Await(error_, text); }

void Program::Interrupt() { kill(pid_, SIGINT); }

void Program::Write(const std::string& input) {
  for (size_t at = 0; at < input.size();) {
    const ssize_t written = write(input_, input.data() + at, input.size() - at);
    if (written < 0) return;  // the program does not want it
    at += static_cast<size_t>(written);
  }
}

std::string Program::output() {
  const std::lock_guard lock(mutex_);
  return output_.text;
}

std::string Program::error() {
  const std::lock_guard lock(mutex_);
  return error_.text;
}

Outcome RunProgram(const std::vector<std::string>& arguments, ProgramOptions options) {
  Program program(arguments, std::move(options));
  const int status = program.Wait();
  return {status, program.output(), program.error()};
}

}  // namespace quantloom::cli
