#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/c/abi.h"
#include "client/c/handles.h"
#include "client/c/iovad.h"
#include "core/error.h"
#include "core/operations.h"

namespace iovad::c {
namespace {

static_assert(IOVAD_READ == static_cast<int>(Access::kReadOnly));
static_assert(IOVAD_WRITE == static_cast<int>(Access::kWriteOnly));
static_assert(IOVAD_READ_WRITE == static_cast<int>(Access::kReadWrite));

absl::StatusOr<Access> AccessOf(uint32_t access) {
  if (access >= IOVAD_READ && access <= IOVAD_READ_WRITE) return static_cast<Access>(access);
  return MakeError({.reason = Reason::kInvalidAccess},
                   absl::StrCat("access ", access, " is none of enum iovad_access"));
}

template <typename Address>
absl::StatusOr<UnmapSpec> Inside(uint64_t first, uint64_t size) {
  const auto range = Range<Address>::FromSize(Address(first), size);
  if (range.has_value()) return UnmapSpec{.what = *range};
  return MakeError({.reason = size == 0 ? Reason::kEmptyRange : Reason::kRangeWraps},
                   absl::StrCat("the range of ", size, " bytes from 0x", absl::Hex(first),
                                size == 0 ? " is empty" : " goes beyond 2^64"));
}

absl::StatusOr<UnmapSpec> WhatToUnmap(const iovad_op& op) {
  switch (op.kind) {
    case IOVAD_OP_UNMAP_ID:
      return UnmapSpec{.what = MappingId(op.id)};
    case IOVAD_OP_UNMAP_GPA:
      return UnmapSpec{.what = AtGpa{Gpa(op.gpa)}};
    case IOVAD_OP_UNMAP_IOVA:
      return UnmapSpec{.what = AtIova{Iova(op.iova)}};
    case IOVAD_OP_UNMAP_GPA_RANGE:
      return Inside<Gpa>(op.gpa, op.size);
    case IOVAD_OP_UNMAP_IOVA_RANGE:
      return Inside<Iova>(op.iova, op.size);
    case IOVAD_OP_UNMAP_HVA_RANGE:
      return Inside<Hva>(op.hva, op.size);
    default:
      return BadValue(absl::StrCat("kind ", op.kind, " is none of enum iovad_op_kind"));
  }
}

absl::StatusOr<Operation> OperationOf(const iovad_op& op) {
  const bool maps = op.kind == IOVAD_OP_MAP_GUEST || op.kind == IOVAD_OP_MAP_HOST;
  const uint32_t flags = maps ? IOVAD_OP_FIXED_IOVA : IOVAD_OP_ALLOW_SPLIT | IOVAD_OP_ALLOW_MISSING;
  if ((op.flags & ~flags) != 0) {
    return BadValue(
        absl::StrCat("flags 0x", absl::Hex(op.flags), " has some that its kind does not take"));
  }
  if (maps) {
    const absl::StatusOr<Access> access = AccessOf(op.access);
    if (!access.ok()) return access.status();
    MapSpec spec = {
        .hva = Hva(op.hva), .size = op.size, .access = *access, .label = Text(op.label)};
    if (op.kind == IOVAD_OP_MAP_GUEST) spec.gpa = Gpa(op.gpa);
    if ((op.flags & IOVAD_OP_FIXED_IOVA) != 0) spec.iova = Iova(op.iova);
    return spec;
  }
  absl::StatusOr<UnmapSpec> spec = WhatToUnmap(op);
  if (!spec.ok()) return spec.status();
  if ((op.flags & IOVAD_OP_ALLOW_SPLIT) != 0) spec->allow_split = AllowSplit::kYes;
  if ((op.flags & IOVAD_OP_ALLOW_MISSING) != 0) spec->allow_missing = AllowMissing::kYes;
  return *std::move(spec);
}

void TakeResult(const OperationResult& result, iovad_op& op) {
  if (const Mapping* const mapping = std::get_if<Mapping>(&result)) {
    op.id = mapping->id().value();
    op.iova = mapping->iova().first().value();
  } else {
    const auto& unmapped = std::get<Unmapped>(result);
    op.removed_count = unmapped.removed_count;
    op.removed_bytes = unmapped.removed_bytes;
  }
}

int Map(iovad_space* space, const std::optional<Gpa>& gpa, uint64_t hva, uint64_t size,
        uint32_t access, const iovad_options* options, uint64_t* iova, iovad_error* error) {
  return CallOf<PlanOptions>(space, options, error, [&](const PlanOptions& how) -> absl::Status {
    const absl::StatusOr<Access> allowed = AccessOf(access);
    if (!allowed.ok()) return allowed.status();
    const absl::StatusOr<Revised<Mapping>> mapped =
        space->space.Map({.gpa = gpa, .hva = Hva(hva), .size = size, .access = *allowed}, how);
    if (!mapped.ok()) return mapped.status();
    if (iova != nullptr) *iova = mapped->value.iova().first().value();
    return absl::OkStatus();
  });
}

int Unmap(iovad_space* space, const UnmapSpec& spec, const iovad_options* options,
          iovad_error* error) {
  return CallOf<PlanOptions>(space, options, error, [&](const PlanOptions& how) -> absl::Status {
    return space->space.Unmap(spec, how).status();
  });
}

}  // namespace

extern "C" {

int iovad_map_guest(struct iovad_space* space, uint64_t gpa, uint64_t hva, uint64_t size,
                    uint32_t access, const struct iovad_options* options, uint64_t* iova,
                    struct iovad_error* error) {
  return Map(space, Gpa(gpa), hva, size, access, options, iova, error);
}

int iovad_unmap_guest(struct iovad_space* space, uint64_t gpa, const struct iovad_options* options,
                      struct iovad_error* error) {
  return Unmap(space, {.what = AtGpa{Gpa(gpa)}}, options, error);
}

int iovad_map_host(struct iovad_space* space, uint64_t hva, uint64_t size, uint32_t access,
                   const struct iovad_options* options, uint64_t* iova, struct iovad_error* error) {
  return Map(space, std::nullopt, hva, size, access, options, iova, error);
}

int iovad_unmap_host(struct iovad_space* space, uint64_t iova, const struct iovad_options* options,
                     struct iovad_error* error) {
  return Unmap(space, {.what = AtIova{Iova(iova)}}, options, error);
}

int iovad_update(struct iovad_space* space, struct iovad_op* ops, size_t count,
                 const struct iovad_options* options, uint64_t* revision,
                 struct iovad_error* error) {
  return CallOf<PlanOptions>(space, options, error, [&](const PlanOptions& how) -> absl::Status {
    if (absl::Status s = CheckArray(ops, count, "ops"); !s.ok()) return s;
    std::vector<Operation> operations;
    operations.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      iovad_op known;
      const absl::Status good = CopyIn(At(ops, i), "ops", known);
      absl::StatusOr<Operation> operation = good.ok() ? OperationOf(known) : good;
      if (!operation.ok()) return WithOpIndex(operation.status(), static_cast<uint32_t>(i));
      operations.push_back(*std::move(operation));
    }
    const absl::StatusOr<Revised<std::vector<OperationResult>>> updated =
        space->space.Update(operations, how);
    if (!updated.ok()) return updated.status();
    if (updated->value.size() != count) return absl::InternalError("Update: too few answers");
    for (size_t i = 0; i < count; ++i) {
      iovad_op known;
      if (absl::Status s = CopyIn(At(ops, i), "ops", known); !s.ok()) return s;
      TakeResult(updated->value[i], known);
      CopyOut(known, *At(ops, i));
    }
    if (revision != nullptr) *revision = updated->revision.value();
    return absl::OkStatus();
  });
}

int iovad_list(struct iovad_space* space, const struct iovad_range* iovas,
               const struct iovad_options* options,
               int (*visit)(void* opaque, const struct iovad_mapping* mapping), void* opaque,
               uint64_t* revision, struct iovad_error* error) {
  return CallOf<CallOptions>(space, options, error, [&](const CallOptions& how) -> absl::Status {
    if (visit == nullptr) return IsNull("visit");
    MappingFilter filter;
    if (iovas != nullptr) {
      filter.iova = IovaRange::FromBounds(Iova(iovas->first), Iova(iovas->last));
      if (!filter.iova.has_value()) {
        return BadValue("iovas: its first is above its last");
      }
    }
    const absl::StatusOr<Revised<std::vector<Mapping>>> listed =
        space->space.ListMappings(filter, how);
    if (!listed.ok()) return listed.status();
    if (revision != nullptr) *revision = listed->revision.value();
    for (const Mapping& m : listed->value) {
      const iovad_mapping mapping = {
          .struct_size = sizeof(mapping),
          .access = static_cast<uint32_t>(m.access()),
          .id = m.id().value(),
          .iova = m.iova().first().value(),
          .hva = m.hva().first().value(),
          .gpa = m.is_guest() ? m.gpa().first().value() : 0,
          .size = m.size(),
          .revision = m.revision().value(),
          .svq_id = m.svq().value(),
          .memory_id = m.memory().value(),
          .is_guest = m.is_guest() ? 1u : 0u,
          .label = m.note() ? m.note()->label.c_str() : "",
      };
      if (visit(opaque, &mapping) != 0) break;
    }
    return absl::OkStatus();
  });
}

}  // extern "C"
}  // namespace iovad::c
