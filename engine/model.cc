#include "engine/model.h"

#include <utility>

#include "core/base/status.h"

namespace quantloom {

class Model::Workspace {
 public:
  Workspace(Backend& backend, const ModelConfig& config, size_t rows, size_t logit_rows)
      : layers(backend, config, rows, logit_rows),
        head_input(backend.Buffer(logit_rows, config.hidden_size)),
        logits(backend.Buffer(logit_rows, config.vocab_size)) {}

  LayerActivations layers;
  std::unique_ptr<DeviceBuffer> head_input;  // [logit rows, h]
  std::unique_ptr<DeviceBuffer> logits;      // [logit rows, vocab]
};

void Model::WorkspaceDeleter::operator()(Workspace* workspace) const { delete workspace; }

Model::WorkspacePtr Model::CreateWorkspace(size_t max_rows, size_t max_logit_rows) const {
  return WorkspacePtr(new Workspace(backend(), config(), max_rows, max_logit_rows));
}

uint64_t Model::WorkspaceBytes(const ModelConfig& config, size_t max_rows, size_t max_logit_rows) {
  return LayerActivations::Bytes(config, max_rows) +
         max_logit_rows * (config.hidden_size + config.vocab_size) * sizeof(float);
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(const ModelConfig& config,
                                                     WeightSource& weights, Backend& backend) {
  QL_RETURN_IF_ERROR(config.Validate());
  std::unique_ptr<Model> model(new Model(config, backend));
  QL_ASSIGN_OR_RETURN(model->embedding_, weights.Table("model.embed_tokens.weight",
                                                       config.vocab_size, config.hidden_size));
  if (!model->embedding_->decodes_rows()) {
    return absl::UnimplementedError(
        "tensor 'model.embed_tokens.weight': its rows cannot be looked up, because incoherence "
        "processing transformed its outputs; an embedding may be transformed on the input side "
        "alone");
  }
  for (uint64_t i = 0; i < config.num_layers; ++i) {
    QL_ASSIGN_OR_RETURN(DecoderLayer layer, DecoderLayer::Load(config, weights, i));
    QL_RETURN_IF_ERROR(layer.LoadMatrices(weights));
    for (const std::vector<LinearWeight*>& group : layer.InputGroups()) {
      for (const LinearWeight* linear : group) {
        model->layer_weight_bytes_ += linear->matrix->weight_bytes();
      }
    }
    model->layers_.push_back(std::move(layer));
  }
  QL_ASSIGN_OR_RETURN(model->final_norm_, weights.Vector("model.norm.weight", config.hidden_size));
  if (!config.tie_word_embeddings) {
    QL_ASSIGN_OR_RETURN(model->head_,
                        weights.Matrix("lm_head.weight", config.vocab_size, config.hidden_size));
  }
  return model;
}

void Model::RunLayers(KvStorage& kv, Workspace& workspace) const {
  LayerActivations& x = workspace.layers;
  const size_t n = x.batch->rows();
  backend().Embed(*embedding_, *x.batch, *x.hidden);
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    stages_.EnterBranch(*layers_[i].attention_norm, n, x);
    stages_.Attend(layers_[i], i, kv, x);
    stages_.AddAttended(layers_[i], n, x);
    stages_.EnterBranch(*layers_[i].mlp_norm, n, x);
    stages_.Gate(layers_[i], n, x);
    stages_.AddGated(layers_[i], n, x);
  }
}

void Model::RunHead(Workspace& w) const {
  const size_t rows = w.layers.batch->selected_rows();
  if (rows == 0) return;
  backend().NormSelected(*w.layers.hidden, *w.layers.batch, *final_norm_,
                         static_cast<float>(config().rms_norm_eps), *w.head_input);
  backend().Linear({&head()}, {}, rows, *w.head_input, *w.logits);
  if (w.layers.batch->chooses()) backend().ChooseTokens(*w.logits, *w.layers.batch);
}

void Model::StartStep(const RaggedBatch& batch, absl::Span<const uint32_t> logit_rows,
                      absl::Span<const TokenChoice> choices, KvStorage& kv,
                      Workspace& workspace) const {
  stages_.Begin(batch, workspace.layers);
  backend().Select(logit_rows, *workspace.layers.batch);
  backend().SetChoices(choices, *workspace.layers.batch);
  backend().RunStep(*workspace.layers.batch, [&] {
    RunLayers(kv, workspace);
    RunHead(workspace);
  });
}

absl::StatusOr<Model::StepResult> Model::FinishStep(size_t logits, Workspace& workspace) const {
  StepResult result;
  if (logits > 0) result.logits = backend().Read(*workspace.logits, logits);
  result.chosen = backend().FinishStep(*workspace.layers.batch);
  QL_RETURN_IF_ERROR(backend().status());
  return result;
}

absl::StatusOr<absl::Span<const float>> Model::Step(const RaggedBatch& batch,
                                                    absl::Span<const uint32_t> logit_rows,
                                                    KvStorage& kv, Workspace& workspace) const {
  StartStep(batch, logit_rows, {}, kv, workspace);
  QL_ASSIGN_OR_RETURN(const StepResult result, FinishStep(logit_rows.size(), workspace));
  return result.logits;
}

absl::Duration Model::StepTime(const Workspace& workspace) const {
  return backend().StepTime(*workspace.layers.batch);
}

void Model::Forward(const RaggedBatch& batch, KvStorage& kv, Workspace& workspace) const {
  stages_.Begin(batch, workspace.layers);
  RunLayers(kv, workspace);
}

absl::StatusOr<absl::Span<const float>> Model::Logits(absl::Span<const uint32_t> rows,
                                                      Workspace& w) const {
  backend().Select(rows, *w.layers.batch);
  RunHead(w);
  const absl::Span<const float> logits = backend().Read(*w.logits, rows.size());
  QL_RETURN_IF_ERROR(backend().status());
  return logits;
}

}  // namespace quantloom
