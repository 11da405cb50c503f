#include "cli/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quantloom::cli {
namespace {

std::string_view Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

bool IsTerminal(int descriptor) {
  const std::string_view term = Environment("TERM");
  return isatty(descriptor) == 1 && !term.empty() && term != "dumb";
}

// LC_ALL, LC_CTYPE, LANG: the first that is set decides. None set (many containers): modern
// terminals are UTF-8.
bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = absl::AsciiStrToLower(std::string(Environment(name)));
    if (!value.empty())
      return absl::StrContains(value, "utf-8") || absl::StrContains(value, "utf8");
  }
  return true;
}

// False when the descriptor takes no more.
bool WriteAll(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace

Console::Console()
    : out_is_terminal_(IsTerminal(STDOUT_FILENO)),
      err_is_terminal_(IsTerminal(STDERR_FILENO)),
      unicode_(LocaleIsUtf8()) {
  set_color_mode(ColorMode::kAuto);
}

void Console::set_color_mode(ColorMode mode) {
  const bool wanted = mode == ColorMode::kAuto && Environment("NO_COLOR").empty();
  out_color_ = mode == ColorMode::kAlways || (wanted && out_is_terminal_);
  err_color_ = mode == ColorMode::kAlways || (wanted && err_is_terminal_);
}

void Console::Out(std::string_view text) {
  if (live_ && out_is_terminal_) ClearLive();
  if (!WriteAll(STDOUT_FILENO, text)) out_ok_ = false;
}

void Console::Err(std::string_view text) {
  // Nothing can be reported about standard error itself.
  WriteAll(STDERR_FILENO, live_ ? absl::StrCat("\r\x1b[K", std::string(text)) : std::string(text));
  live_ = false;
}

void Console::ShowLive(std::string_view line) {
  // The line first and the erasure of what is left of the old one after it: erasing first would
  // flicker.
  WriteAll(STDERR_FILENO, absl::StrCat("\r", std::string(line), "\x1b[K"));
  live_ = true;
}

void Console::ClearLive() {
  if (live_) WriteAll(STDERR_FILENO, "\r\x1b[K");
  live_ = false;
}

int Console::width() const {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  int columns = 0;
  if (absl::SimpleAtoi(std::string(Environment("COLUMNS")), &columns) && columns > 0)
    return columns;
  return 80;
}

std::string Styled(bool color, std::string_view style, std::string_view text) {
  if (!color) return std::string(text);
  return absl::StrCat("\x1b[", std::string(style), "m", std::string(text), "\x1b[0m");
}

}  // namespace quantloom::cli
