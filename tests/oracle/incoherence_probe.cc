// Prints what incoherence_oracle.py compares.
//
//   incoherence_probe SIZE full|128 SEED
//
// x_i = i^2 mod 101 - 50 is transformed by H S / sqrt(b), then by its transpose; one line for each
// result, hexadecimal floats separated by spaces.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/transform/incoherence.h"

namespace quantloom {
namespace {

void Print(const HadamardTransform& transform, Direction direction) {
  std::vector<float> x(transform.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 101) - 50;
  transform.Apply(direction, absl::MakeSpan(x));
  for (const float v : x) std::printf("%a ", static_cast<double>(v));
  std::printf("\n");
}

}  // namespace
}  // namespace quantloom

int main(int argc, char** argv) {
  using namespace quantloom;
  if (argc != 4) {
    std::fprintf(stderr, "usage: incoherence_probe SIZE full|128 SEED\n");
    return 2;
  }
  const size_t size = std::strtoull(argv[1], nullptr, 10);
  const HadamardTransform transform(
      size, std::strcmp(argv[2], "128") == 0 ? HadamardBlocks::k128 : HadamardBlocks::kFull,
      RandomSigns(std::strtoull(argv[3], nullptr, 10), size));
  Print(transform, Direction::kForward);
  Print(transform, Direction::kTransposed);
  return 0;
}
