#include "server/toml.h"

#include <cstdint>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace iovad {
namespace {

absl::Status Error(int line, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("line ", line, ": ", absl::string_view(what.data(), what.size())));
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsBareKeyCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || IsDigit(c) || c == '-' || c == '_';
}
bool IsControl(char c) {
  const auto u = static_cast<unsigned char>(c);
  return (u < 0x20 && c != '\t') || u == 0x7f;
}

// Reads one line from left to right.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  void SkipBlanks() {
    while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\t')) Drop();
  }
  bool Take(char c) {
    if (text_.empty() || text_.front() != c) return false;
    Drop();
    return true;
  }
  // Nothing left but blanks and a comment.
  bool AtEnd() {
    SkipBlanks();
    return text_.empty() || text_.front() == '#';
  }
  char Peek() const { return text_.empty() ? '\0' : text_.front(); }
  bool Empty() const { return text_.empty(); }
  void Drop() { text_.remove_prefix(1); }

  // The longest run of characters that `accept` takes; may be empty.
  template <typename Accept>
  std::string_view TakeWhile(Accept accept) {
    size_t n = 0;
    while (n < text_.size() && accept(text_[n])) ++n;
    const std::string_view taken = text_.substr(0, n);
    text_.remove_prefix(n);
    return taken;
  }

 private:
  std::string_view text_;
};

// The rest of a "basic" string, after its opening quote.
std::optional<std::string> TakeBasicString(Cursor& in) {
  std::string out;
  while (!in.Empty()) {
    const char c = in.Peek();
    in.Drop();
    if (c == '"') return out;
    if (c != '\\') {
      out.push_back(c);
      continue;
    }
    if (in.Empty()) return std::nullopt;
    const char escaped = in.Peek();
    in.Drop();
    switch (escaped) {
      case '"':
      case '\\':
        out.push_back(escaped);
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'n':
        out.push_back('\n');
        break;
      default:  // the rest of TOML's escapes have no use in what is configured
        return std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::string> TakeLiteralString(Cursor& in) {
  std::string out(in.TakeWhile([](char c) { return c != '\''; }));
  if (!in.Take('\'')) return std::nullopt;
  return out;
}

// "1_000" to "1000"; "0o660" and "0x10" keep their prefix.
std::optional<std::string> IntegerDigits(std::string_view token) {
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    if (token[i] != '_') {
      out.push_back(token[i]);
      continue;
    }
    if (i == 0 || i + 1 == token.size() || token[i - 1] == '_') return std::nullopt;
  }
  std::string_view digits = out;
  if (!digits.empty() && (digits.front() == '-' || digits.front() == '+')) digits.remove_prefix(1);
  if (digits.substr(0, 2) == "0o" || digits.substr(0, 2) == "0x") {
    const bool hex = digits[1] == 'x';
    digits.remove_prefix(2);
    for (char c : digits) {
      const bool good = hex ? IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')
                            : c >= '0' && c <= '7';
      if (!good) return std::nullopt;
    }
    return digits.empty() ? std::nullopt : std::optional(out);
  }
  if (digits.empty() || (digits.size() > 1 && digits.front() == '0')) return std::nullopt;
  for (char c : digits) {
    if (!IsDigit(c)) return std::nullopt;
  }
  return out;
}

absl::Status TakeValue(Cursor& in, TomlItem& item) {
  if (in.Take('"')) {
    std::optional<std::string> text = TakeBasicString(in);
    if (!text) return Error(item.line, "the string has no closing quote or an unknown escape");
    item.kind = TomlItem::Kind::kString;
    item.value = *std::move(text);
    return absl::OkStatus();
  }
  if (in.Take('\'')) {
    std::optional<std::string> text = TakeLiteralString(in);
    if (!text) return Error(item.line, "the string has no closing quote");
    item.kind = TomlItem::Kind::kString;
    item.value = *std::move(text);
    return absl::OkStatus();
  }
  const std::string_view token =
      in.TakeWhile([](char c) { return IsBareKeyCharacter(c) || c == '+' || c == '.'; });
  if (token == "true" || token == "false") {
    item.kind = TomlItem::Kind::kBoolean;
    item.value = std::string(token);
    return absl::OkStatus();
  }
  if (std::optional<std::string> digits = IntegerDigits(token)) {
    item.kind = TomlItem::Kind::kInteger;
    item.value = *std::move(digits);
    return absl::OkStatus();
  }
  return Error(item.line, "a value is a \"string\" in quotes, an integer, true or false");
}

absl::StatusOr<std::string> TakeTable(Cursor& in, int line) {
  in.SkipBlanks();
  const std::string name(in.TakeWhile(IsBareKeyCharacter));
  in.SkipBlanks();
  if (name.empty() || !in.Take(']') || !in.AtEnd()) {
    return Error(line, "a table is written [name]");
  }
  return name;
}

}  // namespace

absl::StatusOr<std::vector<TomlItem>> ParseToml(std::string_view text) {
  std::vector<TomlItem> items;
  std::set<std::string> seen;  // keys, and tables as "[name]"
  std::string table;
  for (int line = 1; !text.empty(); ++line) {
    const size_t end = text.find('\n');
    std::string_view row = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!row.empty() && row.back() == '\r') row.remove_suffix(1);
    for (char c : row) {
      if (IsControl(c)) return Error(line, "control character");
    }

    Cursor in(row);
    if (in.AtEnd()) continue;
    if (in.Take('[')) {
      absl::StatusOr<std::string> name = TakeTable(in, line);
      if (!name.ok()) return name.status();
      table = *name;
      if (!seen.insert("[" + table + "]").second) {
        return Error(line, absl::StrCat("table [", table, "] is there twice"));
      }
      continue;
    }
    const std::string key(in.TakeWhile(IsBareKeyCharacter));
    in.SkipBlanks();
    if (key.empty() || !in.Take('=')) return Error(line, "expected: key = value");
    TomlItem item{
        .key = table.empty() ? key : absl::StrCat(table, ".", key), .value = "", .line = line};
    in.SkipBlanks();
    if (absl::Status status = TakeValue(in, item); !status.ok()) return status;
    if (!in.AtEnd()) return Error(line, "more than one value");
    if (!seen.insert(item.key).second) {
      return Error(line, absl::StrCat("key '", item.key, "' is there twice"));
    }
    items.push_back(std::move(item));
  }
  return items;
}

std::string TomlQuote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out.push_back('\\');
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      out.push_back(c);
    }
  }
  return out + "\"";
}

}  // namespace iovad
