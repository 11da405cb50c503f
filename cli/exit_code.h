// What the process's exit status tells a script. docs/cli.md is the public list.
#pragma once

#include "absl/status/status.h"

namespace quantloom::cli {

enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,  // the request was refused or failed; a local file could not be read
  kUsage = 2,   // the command line is wrong
  kUnavailable =
      3,           // no server at the address, it is draining, or the connection was lost for good
  kJobFailed = 4,  // the job ended FAILED or CANCELLED
  kTimeout = 5,    // --timeout passed
  kInterrupted = 130,  // Ctrl-C (128 + SIGINT)
};

// The exit code of a command that ended with this status.
ExitCode ExitCodeFor(const absl::Status& status);

}  // namespace quantloom::cli
