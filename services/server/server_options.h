// The server's settings; docs/configuration.md lists them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/format/packed_model.h"
#include "engine/generation.h"
#include "services/common/configuration.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/server/request_conversion.h"

namespace quantloom {

struct ServerOptions {
  ServerOptions();

  GrpcServerOptions grpc;
  LogOptions log;
  std::string model_root = "models";
  std::vector<std::string> load;       // models to load at start; the server fails without them
  bool load_all = false;               // and all others that can be
  absl::Duration watch_models;         // time between two looks at the root; 0: none
  std::string verify = "header";       // header, full
  uint64_t memory_limit = 0;           // bytes; 0: none
  std::string device = "auto";         // auto, cpu, cuda, cuda:N
  std::string cuda_prefill = "fused";  // fused, cublas
  int threads = 0;                     // 0: one per processor
  bool pin_threads = false;            // each but the caller's on a processor of its own
  GenerationEngine::Limits engine;
  InputLimits input{.max_prompt_bytes = 1 << 20};

  void AddTo(Configuration& configuration);
  CudaPrefill prefill_mode() const {
    return cuda_prefill == "cublas" ? CudaPrefill::kCublas : CudaPrefill::kFused;
  }
  Verify verify_mode() const { return verify == "full" ? Verify::kFull : Verify::kHeader; }
};

}  // namespace quantloom
