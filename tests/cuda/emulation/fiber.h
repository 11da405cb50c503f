// A thread of execution that runs when it is resumed and stops where it yields, on a stack of its
// own (Boost.Context). AddressSanitizer and ThreadSanitizer are told of every switch.
//
// Thread-safety: none; fibers are resumed from one thread.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <functional>
#include <memory>

namespace quantloom::cuda_emulation {

class Fiber {
 public:
  // Has a stack from now on; Start gives it work as often as wanted.
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares to run `body`, from its beginning. What ran before is abandoned where it stopped.
  void Start(std::function<void()> body);
  // Runs the body until it yields or ends.
  void Resume();
  bool ended() const { return ended_; }

  // In a fiber: goes back to who resumed it.
  void Yield();

 private:
  static void Enter(boost::context::detail::transfer_t transfer);
  void SwitchToResumer(bool for_good);

  std::function<void()> body_;
  void* const stack_;  // lowest address; the page below it is not accessible
  boost::context::detail::fcontext_t context_ = nullptr;
  boost::context::detail::fcontext_t resumer_ = nullptr;
  bool ended_ = true;
  // AddressSanitizer's view of the two stacks.
  void* own_fake_stack_ = nullptr;
  const void* resumer_stack_ = nullptr;
  size_t resumer_stack_size_ = 0;
  // ThreadSanitizer's view of this fiber and of who resumed it.
  void* const thread_;
  void* resumer_thread_ = nullptr;
};

}  // namespace quantloom::cuda_emulation
