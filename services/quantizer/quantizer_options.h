// The quantizer's settings; docs/configuration.md lists them.
#pragma once

#include <string>

#include "services/common/configuration.h"
#include "services/common/device_setting.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"

namespace quantloom {

struct QuantizerOptions {
  QuantizerOptions() {
    grpc.address = "127.0.0.1:7101";
    grpc.metrics_address = "127.0.0.1:9101";
  }

  GrpcServerOptions grpc;
  LogOptions log;
  std::string source_root;
  std::string model_root;
  std::string state_dir;
  std::string device = "auto";  // auto, cpu, cuda, cuda:N
  int threads = 0;
  int max_running_jobs = 1;
  int max_queued_jobs = 64;
  int max_job_crashes = 3;
  int max_running_evaluations = 1;

  void AddTo(Configuration& configuration) {
    grpc.AddTo(configuration);
    log.AddTo(configuration);
    configuration
        .Add("source-root", source_root, "Directory that requests may name sources and texts in")
        ->required();
    configuration.Add("model-root", model_root, "Directory that packed models are published in")
        ->required();
    configuration.Add("state-dir", state_dir, "Directory of the job store; created if missing")
        ->required();
    AddDeviceSetting(device, "What jobs run on", configuration);
    configuration
        .Add("threads", threads, "Threads of each job and evaluation; 0: one per processor")
        ->check(CLI::Range(0, 1024));
    configuration.Add("max-running-jobs", max_running_jobs, "Jobs that run at the same time")
        ->check(CLI::Range(1, 64));
    configuration.Add("max-queued-jobs", max_queued_jobs, "Jobs that may wait beyond them")
        ->check(CLI::Range(0, 1 << 20));
    configuration
        .Add("max-job-crashes", max_job_crashes,
             "Times that the process may die in the middle of a job before the job fails; 0: any")
        ->check(CLI::Range(0, 1 << 20));
    configuration
        .Add("max-running-evaluations", max_running_evaluations,
             "Evaluations of published models that run at the same time, beside the jobs")
        ->check(CLI::Range(1, 64));
  }
};

}  // namespace quantloom
