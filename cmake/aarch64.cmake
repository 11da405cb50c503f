# Toolchain file: 64-bit Arm with Debian's cross compiler. Headers and libraries come from the directory that
# QUANTLOOM_AARCH64_SYSROOT names, which scripts/aarch64.sh makes; tests run under qemu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(QUANTLOOM_AARCH64_SYSROOT "$ENV{QUANTLOOM_AARCH64_SYSROOT}" CACHE PATH "Root of an arm64 Debian's development files")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES QUANTLOOM_AARCH64_SYSROOT)
if(NOT IS_DIRECTORY "${QUANTLOOM_AARCH64_SYSROOT}/usr/include/aarch64-linux-gnu")
  message(FATAL_ERROR "QUANTLOOM_AARCH64_SYSROOT ('${QUANTLOOM_AARCH64_SYSROOT}') is not the root of an arm64 system; "
                      "scripts/aarch64.sh makes one and builds with it")
endif()
set(CMAKE_SYSROOT ${QUANTLOOM_AARCH64_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# For pkg-config, too, there is nothing outside the root.
set(ENV{PKG_CONFIG_DIR} "")
set(ENV{PKG_CONFIG_LIBDIR} ${CMAKE_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${CMAKE_SYSROOT}/usr/share/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${CMAKE_SYSROOT})

set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L ${CMAKE_SYSROOT})
