#include "client/iovactl/table.h"

#include "gtest/gtest.h"

namespace iovad::ctl {
namespace {

const Palette kPlainTable(false);

TEST(Table, AlignsColumns) {
  Table table({{"ID", Align::kRight}, {"NAME"}, {"SIZE", Align::kRight}});
  table.AddRow({"7", "a", "1"});
  table.AddRow({"123", "longer", "22"});
  EXPECT_EQ(table.Text(kPlainTable),
            " ID  NAME    SIZE\n"
            "  7  a          1\n"
            "123  longer    22\n");
}

TEST(Table, LeavesOutColumnsWithoutContent) {
  Table table({{"ID"}, {"LABEL"}, {"KIND"}});
  table.AddRow({"7", "", "guest"});
  EXPECT_EQ(table.Text(kPlainTable), "ID  KIND\n7   guest\n");
}

TEST(Table, ShowsAllTitlesWhenThereAreNoRows) {
  EXPECT_EQ(Table({{"ID"}, {"LABEL"}}).Text(kPlainTable), "ID  LABEL\n");
}

TEST(Table, FillsMissingCellsAndEndsLinesWithoutBlanks) {
  Table table({{"A"}, {"B"}});
  table.AddRow({"x"});
  table.AddRow({"y", "z"});
  EXPECT_EQ(table.Text(kPlainTable), "A  B\nx\ny  z\n");
}

TEST(Table, CountsCharactersNotBytes) {
  Table table({{"A"}, {"B"}});
  table.AddRow({"\xc3\xbc\xc3\xbc", "1"});  // two characters, four bytes
  table.AddRow({"ab", "2"});
  EXPECT_EQ(table.Text(kPlainTable), "A   B\n\xc3\xbc\xc3\xbc  1\nab  2\n");
}

TEST(Table, PrintsNoControlCharacters) {
  Table table({{"A"}});
  table.AddRow({"x\ny\x1b[0m"});
  EXPECT_EQ(table.Text(kPlainTable), "A\nx\\x0ay\\x1b[0m\n");
}

TEST(Table, ColoursTheTitlesOnlyWhenAsked) {
  Table table({{"A"}});
  table.AddRow({"x"});
  EXPECT_EQ(table.Text(Palette(true)), "\x1b[1mA\x1b[0m\nx\n");
}

TEST(FieldList, AlignsValuesAndLeavesOutEmptyOnes) {
  FieldList fields;
  fields.Add("Name", "vm1");
  fields.Add("Path", "");
  fields.Add("Revision", "4");
  EXPECT_EQ(fields.Text(kPlainTable), "Name      vm1\nRevision  4\n");
}

}  // namespace
}  // namespace iovad::ctl
