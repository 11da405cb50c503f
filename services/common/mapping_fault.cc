#include "services/common/mapping_fault.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>

namespace quantloom {
namespace {

// All of this runs in the signal's handler: system calls and the stack only.

void Write(const char* text, size_t size) {
  while (size > 0) {
    const ssize_t written = write(STDERR_FILENO, text, size);
    if (written <= 0) return;
    text += written;
    size -= static_cast<size_t>(written);
  }
}

// Reads a hexadecimal number and moves `text` past it.
uintptr_t ReadHex(const char*& text) {
  uintptr_t value = 0;
  for (;; ++text) {
    if (*text >= '0' && *text <= '9') {
      value = value * 16 + static_cast<uintptr_t>(*text - '0');
    } else if (*text >= 'a' && *text <= 'f') {
      value = value * 16 + static_cast<uintptr_t>(*text - 'a' + 10);
    } else {
      return value;
    }
  }
}

// The path in a line "begin-end permissions offset device inode path" of /proc/self/maps whose
// range has the address; null for another line or a mapping of no file.
const char* MappedPath(const char* line, uintptr_t address) {
  const uintptr_t begin = ReadHex(line);
  if (*line != '-') return nullptr;
  const uintptr_t end = ReadHex(++line);
  return address >= begin && address < end ? std::strchr(line, '/') : nullptr;
}

// Writes what `address` is mapped from.
void WriteMappedPath(uintptr_t address) {
  const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  char line[4352];  // PATH_MAX and the columns before it
  size_t length = 0;
  char byte = 0;
  while (maps >= 0 && read(maps, &byte, 1) == 1) {
    if (byte != '\n') {
      if (length + 1 < sizeof(line)) line[length++] = byte;
      continue;
    }
    line[length] = '\0';
    length = 0;
    if (const char* path = MappedPath(line, address); path != nullptr) {
      return Write(path, std::strlen(path));
    }
  }
  constexpr char kUnknown[] = "an unknown file";
  Write(kUnknown, sizeof(kUnknown) - 1);
}

// SA_RESETHAND: the read that failed is repeated, and ends the process with SIGBUS.
void HandleBusError(int, siginfo_t* info, void*) {
  constexpr char kMessage[] = "fatal: a mapped file was truncated, or cannot be read: ";
  Write(kMessage, sizeof(kMessage) - 1);
  WriteMappedPath(reinterpret_cast<uintptr_t>(info->si_addr));
  Write("\n", 1);
}

}  // namespace

void ReportMappingFaults() {
  struct sigaction action = {};
  action.sa_sigaction = HandleBusError;
  action.sa_flags = SA_SIGINFO | SA_RESETHAND;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace quantloom
