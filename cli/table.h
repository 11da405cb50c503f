// Text in columns, for people.
#pragma once

#include <string>
#include <vector>

namespace quantloom::cli {

// A table with a header line, cells padded by display width, two spaces between columns.
//
//   Table table({{"JOB"}, {"B/W", Align::kRight}});
//   table.Add({"job-1", "2.34"});
//   console.Out(table.Render());
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns);

  // A row with one cell per column. Control characters in cells are removed.
  void Add(std::vector<std::string> cells);

  // A line of dashes before the next row: what follows are totals.
  void AddRule();

  // Lines that each end in '\n'; no spaces at their ends. `bold_header` wraps the header in ANSI
  // bold.
  std::string Render(bool bold_header = false) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

// Lines of "name  value", values aligned.
std::string RenderPairs(const std::vector<std::pair<std::string, std::string>>& pairs);

}  // namespace quantloom::cli
