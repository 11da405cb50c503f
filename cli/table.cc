#include "cli/table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/utf8.h"

namespace quantloom::cli {
namespace {

constexpr char kGap[] = "  ";

std::string Padded(const std::string& cell, int width, Table::Align align) {
  const std::string space(static_cast<size_t>(std::max(0, width - DisplayWidth(cell))), ' ');
  return align == Table::Align::kLeft ? cell + space : space + cell;
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::Add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = OneLine(cell);
  rows_.push_back(std::move(cells));
}

void Table::AddRule() { rows_.emplace_back(); }

std::string Table::Render(bool bold_header) const {
  std::vector<int> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    int width = DisplayWidth(columns_[c].title);
    for (const auto& row : rows_) {
      if (!row.empty()) width = std::max(width, DisplayWidth(row[c]));
    }
    widths.push_back(width);
  }
  const auto line = [&](auto&& cell) {
    std::string text;
    for (size_t c = 0; c < columns_.size(); ++c) {
      absl::StrAppend(&text, c == 0 ? "" : kGap, Padded(cell(c), widths[c], columns_[c].align));
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
  };
  const std::string header = line([&](size_t c) { return columns_[c].title; });
  std::string text = bold_header ? absl::StrCat("\x1b[1m", header, "\x1b[0m\n") : header + "\n";
  for (const auto& row : rows_) {
    absl::StrAppend(&text, line([&](size_t c) {
      return row.empty() ? std::string(static_cast<size_t>(widths[c]), '-') : row[c];
    }),
                    "\n");
  }
  return text;
}

std::string RenderPairs(const std::vector<std::pair<std::string, std::string>>& pairs) {
  int width = 0;
  for (const auto& [name, value] : pairs) width = std::max(width, DisplayWidth(name));
  std::string text;
  for (const auto& [name, value] : pairs) {
    absl::StrAppend(&text, Padded(name, width, Table::Align::kLeft), kGap, OneLine(value), "\n");
  }
  return text;
}

}  // namespace quantloom::cli
