#include "command_line/empty_values.h"

#include <algorithm>

namespace quantloom {
namespace {

bool HasOptionWithValue(const CLI::App& app, const std::string& flag) {
  const CLI::Option* option = app.get_option_no_throw(flag);
  if (option != nullptr && option->get_items_expected_min() > 0) return true;
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(subcommands.begin(), subcommands.end(), [&flag](const CLI::App* subcommand) {
    return HasOptionWithValue(*subcommand, flag);
  });
}

}  // namespace

std::vector<std::string> SeparateEmptyValues(const CLI::App& app,
                                             const std::vector<std::string>& arguments) {
  std::vector<std::string> separated;
  const auto end_of_options = std::find(arguments.begin(), arguments.end(), "--");
  for (auto it = arguments.begin(); it != end_of_options; ++it) {
    const bool ends_empty =
        it->rfind("--", 0) == 0 && it->size() > 3 && it->find('=') == it->size() - 1;
    const std::string flag = it->substr(0, it->find('='));
    if (ends_empty && HasOptionWithValue(app, flag)) {
      separated.insert(separated.end(), {flag, ""});
    } else {
      separated.push_back(*it);
    }
  }
  separated.insert(separated.end(), end_of_options, arguments.end());
  return separated;
}

}  // namespace quantloom
