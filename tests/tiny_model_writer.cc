// Writes a tiny random model to the directory that is named:
//
//   tiny_model_writer DIRECTORY           the tests' own
//   tiny_model_writer DIRECTORY HIDDEN    one of that hidden size, a multiple of 64: heads of 64, a
//                                         key head for two of them, twice as wide inside
#include <cstdio>
#include <cstdlib>

#include "tests/tiny_model.h"

int main(int argc, char** argv) {
  quantloom::ModelConfig config = quantloom::testing::TinyConfig();
  const uint64_t hidden = argc == 3 ? std::strtoull(argv[2], nullptr, 10) : config.hidden_size;
  if (argc < 2 || argc > 3 || hidden == 0 || hidden % 64 != 0 || hidden > 4096) {
    std::fprintf(stderr, "usage: tiny_model_writer DIRECTORY [HIDDEN, a multiple of 64]\n");
    return 2;
  }
  if (argc == 3) {
    config.hidden_size = hidden;
    config.intermediate_size = 2 * hidden;
    config.head_dim = 64;
    config.num_heads = hidden / 64;
    config.num_kv_heads = config.num_heads % 2 == 0 ? config.num_heads / 2 : config.num_heads;
  }
  quantloom::testing::WriteTinyModel(argv[1], /*seed=*/1, config);
  return 0;
}
