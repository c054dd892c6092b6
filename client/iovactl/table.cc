#include "client/iovactl/table.h"

#include <algorithm>
#include <utility>

#include "client/text/format.h"

namespace iovad::ctl {
namespace {

constexpr std::string_view kGap = "  ";

void TrimRight(std::string& line) {
  const size_t end = line.find_last_not_of(' ');
  line.resize(end == std::string::npos ? 0 : end + 1);
}

std::string Padded(std::string_view text, size_t width, Align align) {
  const size_t own = DisplayWidth(text);
  const std::string padding(width > own ? width - own : 0, ' ');
  return align == Align::kLeft ? std::string(text) + padding : padding + std::string(text);
}

}  // namespace

size_t DisplayWidth(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;  // not a continuation byte
  }));
}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = text::Printable(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::Text(const Palette& palette) const {
  std::vector<size_t> widths(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  // Without rows there is nothing to say which columns are empty.
  for (size_t i = 0; i < widths.size(); ++i) {
    if (widths[i] > 0 || rows_.empty()) {
      widths[i] = std::max(widths[i], DisplayWidth(columns_[i].title));
    }
  }
  const auto line = [&](auto cell_at) {
    std::string text;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (widths[i] == 0) continue;
      if (!text.empty()) text += kGap;
      text += Padded(cell_at(i), widths[i], columns_[i].align);
    }
    TrimRight(text);
    return text;
  };
  std::string text = palette(
      Paint::kBold, line([&](size_t i) -> const std::string& { return columns_[i].title; }));
  text += '\n';
  for (const auto& row : rows_) {
    text += line([&](size_t i) -> const std::string& { return row[i]; });
    text += '\n';
  }
  return text;
}

void FieldList::Add(std::string_view name, std::string_view value) {
  if (!value.empty()) fields_.emplace_back(name, text::Printable(value));
}

std::string FieldList::Text(const Palette& palette) const {
  size_t width = 0;
  for (const auto& [name, value] : fields_) width = std::max(width, DisplayWidth(name));
  std::string text;
  for (const auto& [name, value] : fields_) {
    text += palette(Paint::kBold, Padded(name, width, Align::kLeft));
    text += kGap;
    text += value;
    text += '\n';
  }
  return text;
}

}  // namespace iovad::ctl
