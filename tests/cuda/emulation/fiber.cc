#include "tests/cuda/emulation/fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace quantloom::cuda_emulation {
namespace {

namespace context = boost::context::detail;

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = size_t{256} << 10;  // touched pages alone take memory

// Of fibers that are gone: a launch after another finds its stacks warm.
std::vector<void*> free_stacks;

void* TakeStack() {
  if (!free_stacks.empty()) {
    void* const stack = free_stacks.back();
    free_stacks.pop_back();
    return stack;
  }
  void* const memory = mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE) != 0) {
    std::perror("stack of a fiber");
    std::abort();
  }
  return static_cast<char*>(memory) + kPage;
}

#if defined(__SANITIZE_ADDRESS__)
void BeforeSwitch(void** fake_stack, const void* stack, size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
}
void AfterSwitch(void* fake_stack, const void** from, size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from, from_bytes);
}
void Unpoison(const void* stack) { __asan_unpoison_memory_region(stack, kStackBytes); }
#else
void BeforeSwitch(void**, const void*, size_t) {}
void AfterSwitch(void*, const void**, size_t*) {}
void Unpoison(const void*) {}
#endif

#if defined(__SANITIZE_THREAD__)
void* NewThread() { return __tsan_create_fiber(0); }
void EndThread(void* thread) { __tsan_destroy_fiber(thread); }
void* CurrentThread() { return __tsan_get_current_fiber(); }
#define QUANTLOOM_CONTINUE_AS(thread) __tsan_switch_to_fiber(thread, 0)
#else
void* NewThread() { return nullptr; }
void EndThread(void*) {}
void* CurrentThread() { return nullptr; }
#define QUANTLOOM_CONTINUE_AS(thread) static_cast<void>(thread)
#endif

// ThreadSanitizer notes where functions begin and end, for each fiber apart: not of those that end
// as another fiber than they began, or never.
#define QUANTLOOM_SWITCHES __attribute__((no_sanitize("thread")))

}  // namespace

Fiber::Fiber() : stack_(TakeStack()), thread_(NewThread()) {}

Fiber::~Fiber() {
  EndThread(thread_);
  free_stacks.push_back(stack_);
}

void Fiber::Start(std::function<void()> body) {
  body_ = std::move(body);
  Unpoison(stack_);  // of what was abandoned
  context_ =
      context::make_fcontext(static_cast<char*>(stack_) + kStackBytes, kStackBytes, &Fiber::Enter);
  own_fake_stack_ = nullptr;
  ended_ = false;
}

QUANTLOOM_SWITCHES void Fiber::Resume() {
  void* fake_stack = nullptr;
  resumer_thread_ = CurrentThread();
  BeforeSwitch(&fake_stack, stack_, kStackBytes);
  QUANTLOOM_CONTINUE_AS(thread_);
  context_ = context::jump_fcontext(context_, this).fctx;
  AfterSwitch(fake_stack, nullptr, nullptr);
}

QUANTLOOM_SWITCHES void Fiber::Enter(context::transfer_t transfer) {
  auto* const fiber = static_cast<Fiber*>(transfer.data);
  AfterSwitch(nullptr, &fiber->resumer_stack_, &fiber->resumer_stack_size_);
  fiber->resumer_ = transfer.fctx;
  fiber->body_();
  fiber->ended_ = true;
  fiber->SwitchToResumer(/*for_good=*/true);
}

void Fiber::Yield() { SwitchToResumer(/*for_good=*/false); }

QUANTLOOM_SWITCHES void Fiber::SwitchToResumer(bool for_good) {
  BeforeSwitch(for_good ? nullptr : &own_fake_stack_, resumer_stack_, resumer_stack_size_);
  QUANTLOOM_CONTINUE_AS(resumer_thread_);
  resumer_ = context::jump_fcontext(resumer_, nullptr).fctx;
  AfterSwitch(own_fake_stack_, &resumer_stack_, &resumer_stack_size_);
}

}  // namespace quantloom::cuda_emulation
