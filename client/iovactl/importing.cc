#include "client/iovactl/importing.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/iovactl/options.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

absl::StatusOr<v1::ImportPlacement> ParseImportPlacement(std::string_view text) {
  if (text == "keep") return v1::IMPORT_PLACEMENT_KEEP;
  if (text == "anew") return v1::IMPORT_PLACEMENT_ANEW;
  return absl::InvalidArgumentError("it is keep or anew");
}

}  // namespace

void AddImportOptions(CLI::App* app, ImportOptions* options) {
  AddParsedList(app, "--bind", &options->hvas, ParseHvaBinding,
                "Guest memory, and the HVA of its first byte; may be repeated")
      ->type_name("GPA-RANGE=HVA");
  AddParsedList(app, "--bind-memory", &options->files, ParseFileBinding,
                "Guest memory, and the file that it is in, from OFFSET on: the space gets it "
                "registered. A PATH, fd:N for an inherited descriptor, or server:PATH for a file "
                "that the server opens itself; may be repeated")
      ->type_name("GPA-RANGE=SOURCE[@OFFSET]");
  AddParsed(app, "--placement", &options->placement, ParseImportPlacement,
            "Every mapping at the IOVA that it had (default), or where the space's placement "
            "puts it")
      ->type_name("keep|anew");
  AddParsedList(app, "--attach", &options->attachments, ParseAttachment,
                "A device to push to, with its address space (default 0); may be repeated")
      ->type_name("DEVICE[:ASID]");
  AddFdSocketOption(app, &options->fd_socket);
}

absl::StatusOr<std::vector<FdSource>> Apply(const ImportOptions& options,
                                            v1::ImportHeader* header) {
  for (const v1::AttachmentSpec& spec : options.attachments) *header->add_attachments() = spec;
  return AddBindings(options.hvas, options.files, header);
}

absl::Status MemoryDeposit::Leave(const FdSource& source, v1::MemorySource& memory) {
  if (memory.source_case() == v1::MemorySource::kPath) return absl::OkStatus();
  const absl::StatusOr<UniqueFd> fd = Open(source);
  if (!fd.ok()) return fd.status();
  if (!connected_.has_value()) {
    absl::StatusOr<client::FdSocket> connected = ConnectFds(server_, fd_socket_, options_);
    if (!connected.ok()) return connected.status();
    connected_ = *std::move(connected);
  }
  absl::StatusOr<std::string> handle = connected_->Deposit(FdKind::kMemory, "import", fd->get());
  if (!handle.ok()) return handle.status();
  memory.set_fd_handle(*std::move(handle));
  return absl::OkStatus();
}

void ImportBar::Update(const v1::ImportProgress& at) {
  if (!bar_.has_value()) bar_.emplace(at.total_bytes());
  bar_->Update(at.mapped_bytes(), [&] {
    return absl::StrCat(text::HumanSize(at.mapped_bytes()), " of ",
                        text::HumanSize(at.total_bytes()), " mapped, ",
                        RateText(at.mapped_bytes(), absl::Now() - start_));
  });
}

std::string RateText(uint64_t bytes, absl::Duration duration) {
  const double seconds = std::max(absl::ToDoubleSeconds(duration), 1e-9);
  return absl::StrCat(text::HumanSize(static_cast<uint64_t>(static_cast<double>(bytes) / seconds)),
                      "/s");
}

}  // namespace iovad::ctl
