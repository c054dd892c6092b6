// Colours on a terminal, nothing elsewhere.
//
// Thread safety. A value.
//
// Example:
//   Palette(true)(Paint::kRed, "error");   // "\x1b[31merror\x1b[0m"
//   Palette(false)(Paint::kRed, "error");  // "error"
#ifndef IOVAD_CLIENT_IOVACTL_PALETTE_H_
#define IOVAD_CLIENT_IOVACTL_PALETTE_H_

#include <string>
#include <string_view>

namespace iovad::ctl {

enum class Paint { kBold, kDim, kRed, kGreen, kYellow };

class Palette {
 public:
  explicit Palette(bool on) : on_(on) {}

  std::string operator()(Paint paint, std::string_view text) const {
    if (!on_ || text.empty()) return std::string(text);
    return std::string(Code(paint)) + std::string(text) + "\x1b[0m";
  }

 private:
  // ECMA-48, "select graphic rendition".
  static const char* Code(Paint paint) {
    switch (paint) {
      case Paint::kBold:
        return "\x1b[1m";
      case Paint::kDim:
        return "\x1b[2m";
      case Paint::kRed:
        return "\x1b[31m";
      case Paint::kGreen:
        return "\x1b[32m";
      case Paint::kYellow:
        return "\x1b[33m";
    }
    return "";
  }

  bool on_;
};

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_PALETTE_H_
