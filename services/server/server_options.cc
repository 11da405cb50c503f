#include "services/server/server_options.h"

#include <string>

#include "services/common/device_setting.h"

namespace quantloom {

ServerOptions::ServerOptions() {
  grpc.address = "127.0.0.1:7102";
  grpc.metrics_address = "127.0.0.1:9102";
}

void ServerOptions::AddTo(Configuration& configuration) {
  grpc.AddTo(configuration);
  log.AddTo(configuration);
  configuration.Add("model-root", model_root, "Directory of packed model directories");
  configuration.Add("load", load, "Model to load at start; may be given several times");
  configuration.Add("load-all", load_all, "Load every model under the root that can be loaded");
  configuration.Add(
      "watch-models", watch_models,
      "Look this often for replaced models, and with load-all for new ones; 0: never");
  configuration
      .Add("verify", verify, "What loading compares with the stored digests: header or full")
      ->check(CLI::IsMember({"header", "full"}));
  configuration
      .Add("memory-limit", memory_limit,
           "Bytes for weights, KV caches and activations of all models, e.g. 8GiB; 0: no limit but "
           "a "
           "GPU's free memory")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  AddDeviceSetting(device, "What models run on", configuration);
  configuration
      .Add("cuda-prefill", cuda_prefill,
           "What multiplies prompts on CUDA devices: fused kernels, or cublas with weights "
           "expanded to fp16, whose results depend on what else a step has")
      ->check(CLI::IsMember({"fused", "cublas"}));
  configuration
      .Add("threads", threads,
           "Threads of forward passes, on CUDA devices of loading; 0: one per processor")
      ->check(CLI::Range(0, 1024));
  configuration.Add("pin-threads", pin_threads,
                    "Bind each thread but one to a processor of its own among those allowed");
  configuration.Add("max-running", engine.max_running, "Sequences in one batch, per model")
      ->check(CLI::Range(1, 4096));
  configuration
      .Add("max-waiting", engine.max_waiting, "Requests that may wait beyond them, per model")
      ->check(CLI::Range(0, 1 << 20));
  configuration
      .Add("max-client-requests", engine.max_client_requests,
           "Requests of one client that may run or wait, per model; 0: as many as of all")
      ->check(CLI::Range(0, 1 << 20));
  configuration.Add("prefix-cache", engine.prefix_cache,
                    "Compute prompts that begin with the same tokens once");
  configuration.Add("isolate-clients", engine.isolate_clients,
                    "Share prompts within each client's requests alone");
  configuration
      .Add("kv-tokens", engine.kv_tokens,
           "Tokens a model's KV cache holds; 0: max-running x the context length, at most 2048 "
           "each")
      ->check(CLI::Range(0, 1 << 30));
  configuration.Add("step-tokens", engine.step_tokens, "Tokens in one step, at least max-running")
      ->check(CLI::Range(1, 1 << 16));
  configuration
      .Add("prefill-chunk", engine.prefill_chunk,
           "Prompt tokens in one step, of all sequences, twice as many to end a prompt: less lets "
           "streams and new requests wait less")
      ->check(CLI::Range(1, 1 << 16));
  configuration
      .Add("max-prompt-bytes", input.max_prompt_bytes,
           "Largest prompt, chat or text of a request, in bytes of UTF-8")
      ->check(CLI::Range(1, 1 << 30));
}

}  // namespace quantloom
