#!/usr/bin/env bash
# Installs what building needs and builds.
#
#   scripts/build.sh                       everything, optimized, into build/release/bin
#   scripts/build.sh PRESET [TARGET...]    another preset of CMakePresets.json, or some targets only
source "$(dirname "$0")/setup.sh"

case ${1:-} in
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 0 ;;
esac
install_packages "${BUILD_PACKAGES[@]}"
build "${@:-release}"
