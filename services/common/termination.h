// SIGTERM and SIGINT as something to wait for, not an interruption.
#pragma once

namespace quantloom {

// Blocks SIGTERM and SIGINT in the calling thread and in threads that it starts from now on, and
// ignores SIGPIPE and SIGXFSZ (a closed connection and a file size limit are errors to report).
// Call first in main.
void BlockTerminationSignals();

// Whether WaitForTerminationSignal would return at once.
bool TerminationSignalPending();

// Waits for SIGTERM or SIGINT and returns it. From then on a further one ends the process at once,
// with exit code 128 + signal.
int WaitForTerminationSignal();

}  // namespace quantloom
