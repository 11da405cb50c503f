#include "cli/cancellation.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "cli/exit_code.h"

namespace quantloom::cli {
namespace {

// Written by the signal handler, hence plain descriptors at namespace scope.
int g_interrupt_pipe[2] = {-1, -1};

extern "C" void OnSigint(int) {
  const int saved_errno = errno;
  // A full pipe has enough interrupts pending.
  [[maybe_unused]] const ssize_t written = write(g_interrupt_pipe[1], "i", 1);
  errno = saved_errno;
}

void OpenPipe(int (&ends)[2], int flags) {
  // Without descriptors nothing that follows would work either.
  if (pipe2(ends, flags | O_CLOEXEC) != 0) std::abort();
}

}  // namespace

void Cancellation::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  changed_.notify_all();
  if (context_ != nullptr) context_->TryCancel();
}

void Cancellation::Reset() {
  const std::lock_guard lock(mutex_);
  cancelled_ = false;
}

bool Cancellation::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

bool Cancellation::SleepFor(absl::Duration duration) {
  // A peer may ask for any pause; past a day the clock's arithmetic is what matters.
  duration = std::min(duration, absl::Hours(24));
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, absl::ToChronoNanoseconds(duration),
                            [this] { return cancelled_; });
}

Cancellation::Call::Call(Cancellation& cancellation, grpc::ClientContext& context)
    : cancellation_(cancellation) {
  const std::lock_guard lock(cancellation_.mutex_);
  cancellation_.context_ = &context;
  if (cancellation_.cancelled_) context.TryCancel();
}

Cancellation::Call::~Call() {
  const std::lock_guard lock(cancellation_.mutex_);
  cancellation_.context_ = nullptr;
}

void CatchInterrupts() {
  OpenPipe(g_interrupt_pipe, O_NONBLOCK);
  struct sigaction action {};
  action.sa_handler = OnSigint;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

int InterruptDescriptor() { return g_interrupt_pipe[0]; }

bool TakeInterrupt() {
  bool any = false;
  std::array<char, 64> bytes;
  while (read(g_interrupt_pipe[0], bytes.data(), bytes.size()) > 0) any = true;
  return any;
}

InterruptScope::InterruptScope(std::function<void()> on_interrupt) {
  OpenPipe(stop_pipe_, 0);
  thread_ = std::thread([this, on_interrupt = std::move(on_interrupt)] {
    for (bool first = true;;) {
      std::array<pollfd, 2> wanted = {
          {{InterruptDescriptor(), POLLIN, 0}, {stop_pipe_[0], POLLIN, 0}}};
      if (poll(wanted.data(), wanted.size(), -1) < 0) continue;
      if (wanted[1].revents != 0) return;
      if (!TakeInterrupt()) continue;
      if (!first) _exit(static_cast<int>(ExitCode::kInterrupted));
      first = false;
      on_interrupt();
    }
  });
}

InterruptScope::~InterruptScope() {
  close(stop_pipe_[1]);  // the reading end becomes readable (hang-up)
  thread_.join();
  close(stop_pipe_[0]);
}

}  // namespace quantloom::cli
