// Aligned text tables.
//
// Thread safety. A value.
//
// Invariants.
//  1. Cells hold no line break and no control character: they are made printable.
//  2. Widths count characters, not bytes (UTF-8).
//
// Example:
//   Table table({{"ID", Align::kRight}, {"IOVA"}});
//   table.AddRow({"7", "0x1000-0x1fff"});
//   std::cout << table.Text(palette);
#ifndef IOVAD_CLIENT_IOVACTL_TABLE_H_
#define IOVAD_CLIENT_IOVACTL_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

#include "client/iovactl/palette.h"

namespace iovad::ctl {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kLeft;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Missing cells are empty; there must not be more than columns.
  void AddRow(std::vector<std::string> cells);

  bool empty() const { return rows_.empty(); }
  size_t rows() const { return rows_.size(); }

  // Title line and rows, each ended by a newline. Columns without any content
  // are left out.
  std::string Text(const Palette& palette) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Names and values below each other:
//   Name      vm1
//   Revision  4
class FieldList {
 public:
  // Fields with an empty value are left out.
  void Add(std::string_view name, std::string_view value);
  std::string Text(const Palette& palette) const;

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

// Characters of UTF-8 text.
size_t DisplayWidth(std::string_view text);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_TABLE_H_
