#include "cli/text_pieces.h"

#include <gtest/gtest.h>

namespace quantloom::cli {
namespace {

TEST(TextPiecesTest, FirstPiece_EndsAfterTheLastNewlineThatFits) {
  EXPECT_EQ(FirstPiece("one\ntwo\nthree", 100), "one\ntwo\nthree");
  EXPECT_EQ(FirstPiece("one\ntwo\nthree", 9), "one\ntwo\n");
  EXPECT_EQ(FirstPiece("one\ntwo\nthree", 8), "one\ntwo\n");
  EXPECT_EQ(FirstPiece("one\ntwo\nthree", 7), "one\n");
}

TEST(TextPiecesTest, FirstPiece_MayEndBeforeASpaceThatBelongsToAWord) {
  EXPECT_EQ(FirstPiece("one\n two\nx", 6), "one\n");
  EXPECT_EQ(FirstPiece(" \n = Title = \n", 6), " \n");
}

TEST(TextPiecesTest, FirstPiece_DoesNotEndWhereATokenMayGoOn) {
  EXPECT_EQ(FirstPiece("one\n  two\n3", 5), "one\n  two\n");
  EXPECT_EQ(FirstPiece("one\n 2\n3", 5), "one\n 2\n");  // some split digits off first
  EXPECT_EQ(FirstPiece("one\n\xC2\xA0z\ntwo", 5), "one\n\xC2\xA0z\n");  // a space of two bytes
  EXPECT_EQ(FirstPiece("a\n\nb\nc", 4), "a\n\nb\n");  // a run of two newlines is split
  EXPECT_EQ(FirstPiece("(a)\n(b)\n", 5), "(a)\n(b)\n");
}

TEST(TextPiecesTest, FirstPiece_TakesMoreWhereItMust) {
  EXPECT_EQ(FirstPiece("a long line\nx", 3), "a long line\n");
  EXPECT_EQ(FirstPiece("no line at all", 3), "no line at all");
}

TEST(TextPiecesTest, Pieces_AreTheText) {
  const std::string text = "one\ntwo\n\n\nthree four\n five\nsix\r\nseven";
  std::string joined;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view piece = FirstPiece(rest, 6);
    ASSERT_FALSE(piece.empty());
    joined += piece;
    rest.remove_prefix(piece.size());
  }
  EXPECT_EQ(joined, text);
}

}  // namespace
}  // namespace quantloom::cli
