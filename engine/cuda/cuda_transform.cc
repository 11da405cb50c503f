#include "engine/cuda/cuda_transform.h"

#include <vector>

#include "core/base/status.h"

namespace quantloom {
namespace {

template <typename T>
absl::Span<const uint8_t> Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CudaTransform>> CudaTransforms::Get(size_t size,
                                                                         HadamardBlocks blocks,
                                                                         uint64_t seed,
                                                                         Direction direction) {
  std::weak_ptr<const CudaTransform>& made = made_[{size, blocks, seed, direction}];
  if (std::shared_ptr<const CudaTransform> transform = made.lock()) return transform;
  auto transform = std::make_shared<CudaTransform>();
  const cuda::HadamardSigns factors = cuda::MakeHadamardSigns(size, blocks, direction);
  if (!factors.words.empty()) {
    QL_ASSIGN_OR_RETURN(transform->words, context_.Upload(Bytes(factors.words)));
  }
  QL_ASSIGN_OR_RETURN(transform->signs, context_.Upload(Bytes(RandomSigns(seed, size))));
  const float* const signs = transform->signs.as<float>();
  const bool forward = direction == Direction::kForward;
  transform->view = factors.View(transform->words.as<uint32_t>(), forward ? signs : nullptr,
                                 forward ? nullptr : signs);
  made = transform;
  return transform;
}

}  // namespace quantloom
