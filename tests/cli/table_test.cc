#include "cli/table.h"

#include <gtest/gtest.h>

namespace quantloom::cli {
namespace {

TEST(TableTest, Render_AlignsByDisplayWidth) {
  Table table({{"NAME"}, {"B/W", Table::Align::kRight}, {"NOTE"}});
  table.Add({"größe", "2.34", "x"});
  table.Add({"模型", "10", ""});
  table.AddRule();
  table.Add({"all", "3.1"});
  EXPECT_EQ(table.Render(),
            "NAME    B/W  NOTE\n"
            "größe  2.34  x\n"
            "模型     10\n"
            "-----  ----  ----\n"
            "all     3.1\n");
}

TEST(TableTest, Render_KeepsCellsOnOneLineAndHarmless) {
  Table table({{"NAME"}});
  table.Add({"a\x1b[31mb\nc\td"});
  EXPECT_EQ(table.Render(), "NAME\na[31mb c d\n");
}

TEST(TableTest, Render_MarksOnlyTheHeaderBold) {
  Table table({{"A"}});
  table.Add({"1"});
  EXPECT_EQ(table.Render(true), "\x1b[1mA\x1b[0m\n1\n");
}

TEST(TableTest, RenderPairs_AlignsValues) {
  EXPECT_EQ(RenderPairs({{"size", "1 MB"}, {"bits/weight", "2.3"}}),
            "size         1 MB\nbits/weight  2.3\n");
}

}  // namespace
}  // namespace quantloom::cli
