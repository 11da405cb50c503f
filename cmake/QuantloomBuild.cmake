# Settings every target shares, and the one way to declare a test or a benchmark.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
# Where programs look for the library that they open at run time (engine/cuda/cuda_library.h): beside themselves, and
# where an installation has libraries.
set(CMAKE_BUILD_RPATH "$ORIGIN;$ORIGIN/../lib")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(QUANTLOOM_CCACHE ccache)
if(QUANTLOOM_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${QUANTLOOM_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${QUANTLOOM_CCACHE})
endif()

# No contraction: a * b + c rounds the same in every file, so that packed bytes never depend on
# which expression the compiler chose to fuse. Kernels ask for FMA explicitly.
set(QUANTLOOM_CXX_OPTIONS -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough
                          -Werror -ffp-contract=off)
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${QUANTLOOM_CXX_OPTIONS}>")
if(QUANTLOOM_SANITIZE)
  # g++ warns of uninitialized values inside instrumented std::variant and std::optional; the plain build checks them.
  add_compile_options(-fsanitize=${QUANTLOOM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1
                      -Wno-maybe-uninitialized)
  if(QUANTLOOM_SANITIZE STREQUAL "thread")
    # With this macro protobuf's map fields have members that those inside Debian's library have not.
    add_compile_options(-U__SANITIZE_THREAD__)
  endif()
  add_link_options(-fsanitize=${QUANTLOOM_SANITIZE})
endif()
if(QUANTLOOM_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=address,undefined)
endif()

# SIMD targets of every file that uses Highway: AVX2, AVX3 and AVX3_DL on x86 (older ones have no
# FMA), NEON on Arm, and the emulated target, which gives the same bits and is all there is in a
# scalar build. Arm's SVE vectors have no compile-time size.
option(QUANTLOOM_SCALAR "Build for the emulated SIMD target alone" OFF)
if(QUANTLOOM_SCALAR)
  add_compile_definitions(HWY_COMPILE_ONLY_SCALAR)
else()
  add_compile_definitions(
    HWY_WANT_AVX3_DL
    "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)")
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    # Highway 1.0 takes NEON for an instruction set to be looked for, since it includes AES there. Every such processor
    # has the NEON that kernels use; with this, it is part of the base.
    add_compile_definitions(TOOLCHAIN_MISS_SYS_AUXV_H)
  endif()
endif()
# Where the base has vectors, the emulated target is superseded; tests compare with it.
option(QUANTLOOM_EMULATED_TARGET "Build the emulated SIMD target beside better ones on every architecture" OFF)
if(QUANTLOOM_EMULATED_TARGET AND NOT QUANTLOOM_SCALAR)
  add_compile_definitions(HWY_COMPILE_ALL_ATTAINABLE)
endif()

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(GTest REQUIRED)
include(GoogleTest)

set(QUANTLOOM_PYTHON "" CACHE FILEPATH "Python with tests/requirements.txt installed; without it the oracle tests are left out")

# Parsing gRPC's headers takes most of the time of a file that includes them. Directories of such files switch their
# targets to batches, which parse them once; whoever edits a single file prefers it alone.
option(QUANTLOOM_BATCH_GRPC "Compile files that include gRPC in batches" ON)
set(CMAKE_UNITY_BUILD_BATCH_SIZE 7)

# What scripts/test.sh builds and runs in the sanitizer presets: with ThreadSanitizer the tests marked THREADS, with the
# others all.
add_custom_target(sanitizer_tests)

# quantloom_test(NAME name SOURCES a.cc [LIBS target...] [THREADS]): a GoogleTest program, its cases known to ctest.
function(quantloom_test)
  cmake_parse_arguments(ARG "THREADS" "NAME" "SOURCES;LIBS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS} GTest::gmock_main)
  set(labels "")
  if(ARG_THREADS OR NOT QUANTLOOM_SANITIZE STREQUAL "thread")
    set(labels LABELS sanitize)
    add_dependencies(sanitizer_tests ${ARG_NAME})
  endif()
  gtest_discover_tests(${ARG_NAME} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600 ${labels})
endfunction()

# quantloom_benchmark(NAME name SOURCES a.cc [LIBS target...]): a Google Benchmark program.
function(quantloom_benchmark)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;LIBS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS} benchmark::benchmark)
endfunction()

# quantloom_fuzzer(NAME name SOURCES a.cc [LIBS target...]): a libFuzzer target; seeds in tests/fuzz/corpus/<name>.
# Without QUANTLOOM_FUZZ the same file is linked with a driver that replays its seed corpus as a test.
function(quantloom_fuzzer)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;LIBS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBS})
  if(QUANTLOOM_FUZZ)
    target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${ARG_NAME} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.cc)
    add_test(NAME ${ARG_NAME}_corpus COMMAND ${ARG_NAME} ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${ARG_NAME})
  endif()
endfunction()
