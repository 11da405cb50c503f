// Another process whose streams end because it is killed.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

extern char** environ;  // NOLINT: POSIX declares it nowhere

namespace quantloom::testing {

// Another process that runs stream_client (stream_client.cc) until it is killed.
class StreamClient {
 public:
  StreamClient(int port, int streams) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    std::string program = QUANTLOOM_STREAM_CLIENT;
    std::string port_text = std::to_string(port);
    std::string streams_text = std::to_string(streams);
    char* arguments[] = {program.data(), port_text.data(), streams_text.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = ends[0];
  }
  ~StreamClient() { close(output_); }
  StreamClient(const StreamClient&) = delete;
  StreamClient& operator=(const StreamClient&) = delete;

  // Waits for its first response and then for `pause`, and kills it.
  void KillMidway(absl::Duration pause) {
    char byte = 0;
    EXPECT_EQ(read(output_, &byte, 1), 1);
    absl::SleepFor(pause);
    kill(pid_, SIGKILL);
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "the client ended by itself: " << status;
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
};

}  // namespace quantloom::testing
