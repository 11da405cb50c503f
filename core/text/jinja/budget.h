// What one evaluation may still cost. Every step, and every byte that is made or looked at in
// proportion to a value's size, is charged before the work is done.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace quantloom::jinja {

class Budget {
 public:
  // `bytes` bounds the work on strings and lists beside the steps.
  Budget(size_t steps, size_t bytes) : steps_(steps), bytes_(bytes) {}

  absl::Status Step() {
    if (steps_ == 0) return absl::ResourceExhaustedError("the template takes too many steps");
    --steps_;
    return absl::OkStatus();
  }
  absl::Status Charge(size_t bytes) {
    if (bytes > bytes_) {
      return absl::ResourceExhaustedError("the template works on too much text");
    }
    bytes_ -= bytes;
    return absl::OkStatus();
  }

 private:
  size_t steps_;
  size_t bytes_;
};

}  // namespace quantloom::jinja
