// Comparing a space, and what it answers, with the model. Each function says
// what differs; empty when nothing does.
#ifndef IOVAD_TESTS_UNIT_CORE_SPACE_COMPARISON_H_
#define IOVAD_TESTS_UNIT_CORE_SPACE_COMPARISON_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/address_space.h"
#include "tests/unit/core/reference_space.h"

namespace iovad::reference {

std::string Describe(const Mapping& m);
std::string Describe(const Operation& operation);

// Labels of SVQ memory are not compared: the contract does not say them.
bool Same(const Mapping& a, const Mapping& b);
std::string Compare(absl::Span<const Mapping> actual, absl::Span<const Mapping> expected);
std::string Compare(const Unmapped& actual, const Unmapped& expected);
std::string Compare(const OperationResult& actual, const OperationResult& expected);
std::string Compare(const Svq& actual, const Svq& expected);
std::string Compare(absl::Span<const Svq> actual, absl::Span<const Svq> expected);
std::string Compare(const absl::Status& actual, const Refusal& expected);
std::string Compare(const Translations& actual, size_t index, const Answer& expected);

// All mappings by ListAt, and each by its id and its addresses.
std::string CompareMappings(const AddressSpace& space, const State& expected);
// What was planned, step by step.
std::string CompareEffects(const AddressSpace& space, absl::Span<const State> states);
std::string CompareFree(const AddressSpace& space, absl::Span<const IovaRange> expected);
std::string CompareByHva(const AddressSpace& space, HvaRange range, const State& expected);

}  // namespace iovad::reference

#endif  // IOVAD_TESTS_UNIT_CORE_SPACE_COMPARISON_H_
