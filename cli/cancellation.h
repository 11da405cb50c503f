// Stopping a command that waits: from Ctrl-C to the call or the pause that it is in.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"
#include "grpcpp/client_context.h"

namespace quantloom::cli {

// Ends the call that is running and every pause, now and until it is reset. Thread-safe.
class Cancellation {
 public:
  void Cancel();
  void Reset();
  bool cancelled() const;

  // Sleeps; false as soon as it is cancelled.
  bool SleepFor(absl::Duration duration);

  // While it lives, Cancel() cancels the call of this context. One at a time; the context must
  // outlive it.
  class Call {
   public:
    Call(Cancellation& cancellation, grpc::ClientContext& context);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    Cancellation& cancellation_;
  };

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool cancelled_ = false;
  grpc::ClientContext* context_ = nullptr;
};

// From now on SIGINT no longer ends the process; it is pending until somebody takes it. Called
// once, by the commands that do something better.
void CatchInterrupts();

// Readable while an interrupt is pending, for poll(2).
int InterruptDescriptor();

// Whether an interrupt was pending; none is afterwards.
bool TakeInterrupt();

// While it lives, the first interrupt calls `on_interrupt` on a thread of its own; the second ends
// the process with status 130, so that a client is never stuck. CatchInterrupts() must have been
// called.
class InterruptScope {
 public:
  explicit InterruptScope(std::function<void()> on_interrupt);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  int stop_pipe_[2];
  std::thread thread_;
};

}  // namespace quantloom::cli
