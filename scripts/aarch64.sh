#!/usr/bin/env bash
# Builds core, kernels and engine for 64-bit Arm with Debian's cross compiler, and runs their unit tests under qemu.
#
#   scripts/aarch64.sh
#
# The arm64 libraries are unpacked beside this system, not installed: no foreign architecture is added to it, and no
# package is brought to another version. Without the packages or the network for them: says so, and ends with success.
source "$(dirname "$0")/setup.sh"

case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 0 ;;
  *) fail "usage: scripts/aarch64.sh" ;;
esac

LIBRARIES=(
  libstdc++-12-dev libabsl-dev libhwy-dev libgtest-dev libgmock-dev nlohmann-json3-dev libssl-dev libpcre2-dev
)

# sysroot: an arm64 Debian's development files; sets QUANTLOOM_AARCH64_SYSROOT. apt works on lists of its own, as if on
# an empty arm64 system.
sysroot() {
  local root apt
  root=$CACHE/aarch64-$(sha256sum <<<"${LIBRARIES[*]}" | cut -c1-16)
  if [[ ! -e $root/complete ]]; then
    say "Unpacking ${#LIBRARIES[@]} arm64 Debian packages and what they depend on"
    apt=$(mktemp -d) || return
    mkdir -p "$apt"/{lists,archives}/partial && : >"$apt/status"
    cat >"$apt/apt.conf" <<CONFIG
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "";
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
CONFIG
    APT_CONFIG=$apt/apt.conf apt-get -q update >/dev/null || return
    APT_CONFIG=$apt/apt.conf apt-get -q install -y --no-install-recommends --download-only "${LIBRARIES[@]}" \
      >/dev/null || return
    rm -rf "$root"
    mkdir -p "$root"
    local package
    for package in "$apt"/archives/*.deb; do dpkg-deb --extract "$package" "$root" || return; done
    rm -rf "$apt"
    touch "$root/complete"
  fi
  export QUANTLOOM_AARCH64_SYSROOT=$root
}

# In a shell of its own, since `set -e` means nothing in a condition.
if ! (install_packages "${BUILD_PACKAGES[@]}" g++-aarch64-linux-gnu qemu-user) || ! sysroot; then
  say "SKIPPED: the cross compiler, qemu or the arm64 libraries cannot be had here"
  exit 0
fi
build aarch64 tests/{core,kernels,engine,fuzz}/all
# Without death tests, since an emulated program cannot start itself anew, and without those of
# encoders, of whole models and of many streams, which take minutes each when emulated.
say "Testing (aarch64, under qemu)"
cd "$ROOT" && ctest --preset aarch64 -j "$JOBS" --no-tests=error
