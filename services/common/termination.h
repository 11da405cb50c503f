// SIGTERM, SIGINT and SIGHUP as something to wait for, not an interruption.
#pragma once

#include <functional>

namespace quantloom {

// Blocks SIGTERM, SIGINT and SIGHUP in the calling thread and in threads that it starts from now
// on, and ignores SIGPIPE and SIGXFSZ (a closed connection and a file size limit are errors to
// report). Call first in main.
void BlockTerminationSignals();

// Whether WaitForTerminationSignal would return at once.
bool TerminationSignalPending();

// Waits for SIGTERM or SIGINT and returns it; for every SIGHUP before it, calls `reload` on this
// thread. From then on a further one of the two ends the process at once, with exit code 128 +
// signal, and SIGHUP does nothing.
int WaitForTerminationSignal(const std::function<void()>& reload);

}  // namespace quantloom
