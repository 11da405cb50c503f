#include "cli/help_formatter.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantloom::cli {
namespace {

constexpr size_t kColumns = 100;
constexpr size_t kOptionColumn = 30;

std::string Wrapped(const std::string& text, size_t columns) {
  std::string wrapped;
  size_t used = 0;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (used > 0 && used + 1 + word.size() > columns) {
      wrapped += '\n';
      used = 0;
    }
    if (used > 0) {
      wrapped += ' ';
      ++used;
    }
    absl::StrAppend(&wrapped, word);
    used += word.size();
  }
  return wrapped;
}

}  // namespace

HelpFormatter::HelpFormatter() { column_width(kOptionColumn); }

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (!option->get_option_text().empty()) return " " + option->get_option_text();
  return option->get_type_size() == 0 ? "" : " " + option->get_type_name();
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  std::string text = option->get_description();
  if (!option->get_default_str().empty())
    absl::StrAppend(&text, " [", option->get_default_str(), "]");
  if (!option->get_envname().empty())
    absl::StrAppend(&text, ", or environment ", option->get_envname());
  return Wrapped(text, kColumns - kOptionColumn);
}

std::string HelpFormatter::make_footer(const CLI::App* app) const { return app->get_footer(); }

}  // namespace quantloom::cli
