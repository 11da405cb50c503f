#include "services/common/mapping_fault.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "core/base/file.h"
#include "tests/temporary_directory.h"

namespace quantloom {
namespace {

TEST(MappingFaultDeathTest, ATruncatedMappingEndsTheProcessAndIsNamed) {
  const testing::TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "model.safetensors";
  ASSERT_TRUE(WriteFileAtomically(path, std::string(1 << 20, 'x')).ok());
  const auto read_truncated = [&path] {
    const auto file = MappedFile::Open(path).value();
    std::filesystem::resize_file(path, 0);
    ReportMappingFaults();
    volatile uint8_t byte = file->bytes()[500'000];
    (void)byte;
  };
  EXPECT_EXIT(read_truncated(), ::testing::KilledBySignal(SIGBUS),
              "fatal: a mapped file was truncated, or cannot be read: " + path.string());
}

}  // namespace
}  // namespace quantloom
