// From C and back: structs of any version, errors, and no exceptions; not for programs.
//
// Purpose. What each function of iovad.h needs: structs of the caller's version are
// copied in and out by their size, a status becomes a struct iovad_error, and what throws
// becomes a status.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. What goes in and what is to be filled in is checked before anything is done.
//
// Example:
//   int iovad_x(const struct iovad_spec* spec, struct iovad_info* info, iovad_error* error) {
//     return Call(error, [&]() -> absl::Status {
//       iovad_spec known = {};
//       if (absl::Status s = CopyIn(spec, "spec", known); !s.ok()) return s;
//       if (absl::Status s = CheckOut(info, "info"); !s.ok()) return s;
//       CopyOut(iovad_info{…}, *info);
//       return absl::OkStatus();
//     });
//   }
#ifndef IOVAD_CLIENT_C_ABI_H_
#define IOVAD_CLIENT_C_ABI_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/c/iovad.h"
#include "client/options.h"

namespace iovad::c {

void Fill(const absl::Status& status, iovad_error* error);
// The same where memory may be short.
void Fill(iovad_code code, const char* message, iovad_error* error) noexcept;
// INVALID_VALUE.
absl::Status BadValue(const std::string& message);
absl::Status IsNull(const char* what);
absl::Status WrongSize(const char* what, uint32_t given, size_t known);

// Runs `f()`, which returns a status, as the body of a function of iovad.h.
template <typename F>
int Call(iovad_error* error, F f) {
  try {
    const absl::Status status = f();
    if (status.ok()) return 0;
    Fill(status, error);
  } catch (const std::bad_alloc&) {
    Fill(IOVAD_RESOURCE_EXHAUSTED, "out of memory", error);
  } catch (const std::exception& e) {
    Fill(IOVAD_INTERNAL, e.what(), error);
  }
  return -1;
}

// An argument that must be there.
inline absl::Status Need(const void* argument, const char* what) {
  return argument != nullptr ? absl::OkStatus() : IsNull(what);
}

// The size of a struct of version 1.0, which is the least that is taken. One that grows
// names here what it had.
template <typename T>
constexpr size_t kFirstSize = sizeof(T);

// Whether the struct is one that can be read or filled in.
template <typename T>
absl::Status CheckOut(const T* to, const char* what) {
  static_assert(std::is_trivially_copyable_v<T> && offsetof(T, struct_size) == 0);
  if (to == nullptr) return IsNull(what);
  return to->struct_size >= kFirstSize<T> ? absl::OkStatus()
                                          : WrongSize(what, to->struct_size, sizeof(T));
}

template <typename T>
absl::Status CopyIn(const T* from, const char* what, T& to) {
  if (absl::Status s = CheckOut(from, what); !s.ok()) return s;
  const auto* const bytes = reinterpret_cast<const char*>(from);
  const char* const end = bytes + from->struct_size;
  if (from->struct_size > sizeof(T) &&
      std::any_of(bytes + sizeof(T), end, [](char byte) { return byte != 0; })) {
    return WrongSize(what, from->struct_size, sizeof(T));
  }
  to = {};
  std::memcpy(&to, from, std::min<size_t>(from->struct_size, sizeof(T)));
  if constexpr (requires { to.reserved; }) {
    if (to.reserved != 0) return BadValue(absl::StrCat(what, ": reserved must be 0"));
  }
  return absl::OkStatus();
}

// `to` has been checked.
template <typename T>
void CopyOut(T from, T& to) {
  const uint32_t size = to.struct_size;
  from.struct_size = size;
  auto* const bytes = reinterpret_cast<char*>(&to);
  std::memcpy(bytes, &from, std::min<size_t>(size, sizeof(T)));
  if (size > sizeof(T)) std::memset(bytes + sizeof(T), 0, size - sizeof(T));
}

// The `i`th of an array whose elements are of the caller's version.
template <typename T>
T* At(T* array, size_t i) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(array) + i * array->struct_size);
}
// That each element has the first one's size, and can be read or filled in.
template <typename T>
absl::Status CheckArray(const T* array, size_t count, const char* what) {
  for (size_t i = 0; i < count; ++i) {
    const T* const element = array == nullptr ? nullptr : At(array, i);
    if (absl::Status s = CheckOut(element, what); !s.ok()) return s;
    if (element->struct_size != array->struct_size) {
      return WrongSize(what, element->struct_size, array->struct_size);
    }
  }
  return absl::OkStatus();
}

// Text to a field of `Size` bytes, cut off where it does not fit.
template <size_t Size>
void CopyText(std::string_view from, char (&to)[Size]) {
  const size_t length = std::min(from.size(), Size - 1);
  std::memcpy(to, from.data(), length);
  to[length] = '\0';
}
inline std::string Text(const char* text) { return text != nullptr ? text : ""; }

// A time limit that was named.
inline absl::Duration Milliseconds(int64_t ms) {
  return ms < 0 ? absl::InfiniteDuration() : absl::Milliseconds(ms);
}
// One that may not have been: 0.
inline std::optional<absl::Duration> Timeout(int64_t ms) {
  if (ms == 0) return std::nullopt;
  return Milliseconds(ms);
}

// What `options` say, as far as `Options` has it; the rest is refused.
absl::Status Read(const iovad_options* options, CallOptions& out);
absl::Status Read(const iovad_options* options, RequestOptions& out);
absl::Status Read(const iovad_options* options, ChangeOptions& out);
absl::Status Read(const iovad_options* options, PlanOptions& out);

// The body of a function about a handle that takes options: `f(how)` after both are
// checked.
template <typename Options, typename Handle, typename F>
int CallOf(const Handle* handle, const iovad_options* options, iovad_error* error, F f) {
  return Call(error, [&]() -> absl::Status {
    if (handle == nullptr) return IsNull("the handle");
    Options how;
    if (absl::Status s = Read(options, how); !s.ok()) return s;
    return f(how);
  });
}

}  // namespace iovad::c

#endif  // IOVAD_CLIENT_C_ABI_H_
