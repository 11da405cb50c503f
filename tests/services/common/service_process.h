// A service's executable as a child process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace quantloom::testing {

// Adds --address and --metrics-address with free ports. The child's log goes to `directory`/log.
class ServiceProcess {
 public:
  // Starts the program and waits until it listens or has ended. `max_file_bytes` limits the files
  // that it writes, as a full disk would; 0: no limit.
  ServiceProcess(const std::string& program, std::vector<std::string> arguments,
                 const std::filesystem::path& directory, uint64_t max_file_bytes = 0);
  // Kills what still runs.
  ~ServiceProcess();
  ServiceProcess(const ServiceProcess&) = delete;
  ServiceProcess& operator=(const ServiceProcess&) = delete;

  // 0 when it ended before it listened.
  int port() const { return port_; }
  int metrics_port() const { return metrics_port_; }
  void Signal(int signal) const;
  // Waits for its end: the exit code, or minus the signal that ended it.
  int Wait();
  // What it has logged so far.
  std::string Log() const;

 private:
  std::filesystem::path log_;
  pid_t pid_ = -1;
  int exit_code_ = 0;
  bool ended_ = false;
  int port_ = 0;
  int metrics_port_ = 0;

  bool Poll();
};

}  // namespace quantloom::testing
