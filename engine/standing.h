// Who asks for a request and how urgent it is: what decides between requests that compete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace quantloom {

enum class Priority : uint8_t { kLow, kNormal, kHigh };
inline constexpr size_t kPriorities = 3;

struct Standing {
  Priority priority = Priority::kNormal;
  std::string client;  // requests of equal priority share by client; at most kMaxClientBytes
};
inline constexpr size_t kMaxClientBytes = 256;

}  // namespace quantloom
