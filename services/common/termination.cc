#include "services/common/termination.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace quantloom {
namespace {

sigset_t TerminationSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

sigset_t AllSignals() {
  sigset_t signals = TerminationSignals();
  sigaddset(&signals, SIGHUP);
  return signals;
}

int WaitForSignal(const sigset_t& signals) {
  int signal = 0;
  while (sigwait(&signals, &signal) != 0) {
  }
  return signal;
}

}  // namespace

void BlockTerminationSignals() {
  const sigset_t signals = AllSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

bool TerminationSignalPending() {
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
}

int WaitForTerminationSignal(const std::function<void()>& reload) {
  int signal = WaitForSignal(AllSignals());
  for (; signal == SIGHUP; signal = WaitForSignal(AllSignals())) reload();
  std::thread([] { _exit(128 + WaitForSignal(TerminationSignals())); }).detach();
  return signal;
}

}  // namespace quantloom
