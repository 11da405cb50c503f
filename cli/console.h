// The process's two outputs: results on standard output, everything else on standard error.
#pragma once

#include <string>
#include <string_view>

namespace quantloom::cli {

enum class ColorMode { kAuto, kAlways, kNever };

// Writes to the two outputs and knows what they are. One thread at a time.
//
// A terminal is a device that is one, with TERM neither empty nor "dumb". Colours and live lines
// are for terminals; NO_COLOR (not empty) turns colours off, --color decides over both. Unicode
// bars and marks are used unless the locale in the environment names another encoding.
class Console {
 public:
  Console();

  void set_color_mode(ColorMode mode);

  // Writes all of the text at once and flushes, so that streamed text appears as it arrives. A
  // failure is remembered.
  void Out(std::string_view text);

  // One or more whole lines to standard error. Clears a live line first.
  void Err(std::string_view text);

  // Shows `line` (without newline, at most width() - 1 columns) on standard error in place of the
  // live line before it, by one write, so that nothing flickers. Only for a terminal.
  void ShowLive(std::string_view line);
  void ClearLive();

  bool out_is_terminal() const { return out_is_terminal_; }
  bool err_is_terminal() const { return err_is_terminal_; }
  bool out_color() const { return out_color_; }
  bool err_color() const { return err_color_; }
  bool unicode() const { return unicode_; }

  // False once something could not be written to standard output (a full disk).
  bool out_ok() const { return out_ok_; }

  // Columns of the terminal on standard error now; COLUMNS, then 80, where it does not say.
  int width() const;

 private:
  bool out_is_terminal_;
  bool err_is_terminal_;
  bool out_color_ = false;
  bool err_color_ = false;
  bool unicode_;
  bool out_ok_ = true;
  bool live_ = false;
};

// The text in an ANSI style ("1" bold, "2" faint, "31" red, "32" green, "33" yellow, "36" cyan)
// where `color` is set.
std::string Styled(bool color, std::string_view style, std::string_view text);

}  // namespace quantloom::cli
