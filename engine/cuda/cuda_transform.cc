#include "engine/cuda/cuda_transform.h"

#include "core/base/status.h"

namespace quantloom {
absl::StatusOr<std::shared_ptr<const CudaTransform>> CudaTransforms::Get(size_t size,
                                                                         HadamardBlocks blocks,
                                                                         uint64_t seed,
                                                                         Direction direction) {
  std::weak_ptr<const CudaTransform>& made = made_[{size, blocks, seed, direction}];
  if (std::shared_ptr<const CudaTransform> transform = made.lock()) return transform;
  auto transform = std::make_shared<CudaTransform>();
  const cuda::HadamardSigns factors = cuda::MakeHadamardSigns(size, blocks, direction);
  if (!factors.words.empty()) {
    QL_ASSIGN_OR_RETURN(transform->words,
                        context_.Upload(BytesOf(absl::MakeConstSpan(factors.words))));
  }
  QL_ASSIGN_OR_RETURN(transform->signs,
                      context_.Upload(BytesOf(absl::MakeConstSpan(RandomSigns(seed, size)))));
  const float* const signs = transform->signs.as<float>();
  const bool forward = direction == Direction::kForward;
  transform->view = factors.View(transform->words.as<uint32_t>(), forward ? signs : nullptr,
                                 forward ? nullptr : signs);
  made = transform;
  return transform;
}

}  // namespace quantloom
