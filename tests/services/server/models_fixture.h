// A server in this process, and ModelService's methods as short calls.
#pragma once

#include <string>
#include <vector>

#include "services/common/rpc_status.h"
#include "tests/services/server/server_fixture.h"

namespace quantloom::testing {

class ModelsTest : public ServerTest {
 protected:
  absl::Status Load(const std::string& name, v1::Model* model) {
    v1::LoadModelRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return FromGrpcStatus(models_->LoadModel(&context, request, model));
  }
  absl::Status Unload(const std::string& name, v1::Model* model) {
    v1::UnloadModelRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return FromGrpcStatus(models_->UnloadModel(&context, request, model));
  }
  absl::Status Get(const std::string& name, bool tensors, v1::Model* model) {
    v1::GetModelRequest request;
    request.set_name(name);
    request.set_include_tensors(tensors);
    grpc::ClientContext context;
    return FromGrpcStatus(models_->GetModel(&context, request, model));
  }
  std::vector<v1::Model> List() {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    const grpc::Status status = models_->ListModels(&context, {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.models().begin(), response.models().end()};
  }
};

}  // namespace quantloom::testing
