#include "services/common/device_setting.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "services/common/logging.h"

namespace quantloom {

void AddDeviceSetting(std::string& device, const std::string& help, Configuration& configuration) {
  configuration
      .Add("device", device,
           absl::StrCat(help, ": auto (a CUDA device where there is one), cpu, cuda, cuda:N"))
      ->check(CLI::Validator(
          [](const std::string& text) {
            return NamesDevice(text) ? std::string() : "must be auto, cpu, cuda or cuda:N";
          },
          "DEVICE"));
}

absl::StatusOr<std::unique_ptr<Device>> OpenDeviceSetting(const std::string& device,
                                                          CudaPrefill prefill) {
  absl::StatusOr<DeviceChoice> choice = ChooseDevice(device, prefill);
  if (!choice.ok()) return Annotate(choice.status(), "device");
  if (!choice->fallback.ok()) {
    LogInfo("no CUDA device, so the CPU is used", {{"reason", choice->fallback.message()}});
  }
  LogInfo("device", {{"name", choice->device->name()},
                     {"processor", choice->device->description()},
                     {"memory_bytes", choice->device->memory_bytes()}});
  return std::move(choice->device);
}

}  // namespace quantloom
