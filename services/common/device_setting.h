// The setting `device` of both services.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/device.h"
#include "services/common/configuration.h"

namespace quantloom {

// Adds it; `help` says what the device is for, and is followed by the allowed values.
void AddDeviceSetting(std::string& device, const std::string& help, Configuration& configuration);

// Opens what the setting names; the log says what that is, and why `auto` took the CPU. Errors are
// ChooseDevice's, and name the setting.
absl::StatusOr<std::unique_ptr<Device>> OpenDeviceSetting(
    const std::string& device, CudaPrefill prefill = CudaPrefill::kFused);

}  // namespace quantloom
