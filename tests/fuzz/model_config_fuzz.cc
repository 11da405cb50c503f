// ModelConfig::FromHfJson on any text: an error, or a configuration that survives being written and
// read again.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/format/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config =
      quantloom::ModelConfig::FromHfJson({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) return 0;
  if (quantloom::ModelTensors(*config).empty()) std::abort();
  const std::string text = config->ToHfJson(R"({"quant_method": "quantloom"})");
  const auto again = quantloom::ModelConfig::FromHfJson(text);
  if (!again.ok() || again->ToHfJson(R"({"quant_method": "quantloom"})") != text) std::abort();
  return 0;
}
