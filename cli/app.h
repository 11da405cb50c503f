// The program: command line in, exit status out.
#pragma once

namespace quantloom::cli {

// Parses the command line, runs its command and reports its error. Returns the process's exit
// status (exit_code.h).
int Main(int argc, const char* const* argv);

}  // namespace quantloom::cli
