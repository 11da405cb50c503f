#!/usr/bin/env bash
# Gathers what a bare GPU machine needs to test, measure and run Quantloom: one with NVIDIA's driver and an ordinary
# Linux, no toolkit and none of the packages. The kernels' tests, device_bench, server, client and libquantloom_cuda.so
# come with the libraries that they load; so do the quantizer, a small random model, and what each codec made of it.
#
#   scripts/package_device.sh                       build/device-bundle, and build/device-bundle.tar.xz
#   scripts/package_device.sh MODEL_DIRECTORY...    with these packed models as well
#
# On the other machine: tar xf device-bundle.tar.xz && device-bundle/run.sh. Needs a CUDA toolkit here. The archive must
# stay under QUANTLOOM_BUNDLE_MIB (56) MiB; GPUs to build for are QUANTLOOM_CUDA_ARCHITECTURES (90).
source "$(dirname "$0")/setup.sh"

case ${1:-} in
  -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 0 ;;
esac
export QUANTLOOM_CUDA_ARCHITECTURES=${QUANTLOOM_CUDA_ARCHITECTURES:-90}

install_packages "${BUILD_PACKAGES[@]}" patchelf xz-utils
build release quantloom_cuda cuda_device_tests device_bench quantloom-server quantloom quantloom-quantizer tiny_model_writer

BIN=$ROOT/build/release/bin
BUNDLE=$ROOT/build/device-bundle
LIMIT_MIB=${QUANTLOOM_BUNDLE_MIB:-56}
[[ -e $BIN/libquantloom_cuda.so ]] || fail "this build has no CUDA device code: no toolkit was found"
rm -rf "$BUNDLE" "$BUNDLE.tar.xz"
mkdir -p "$BUNDLE"/{bin,lib,models,sources}

say "Gathering programs and the libraries that they load"
for file in cuda_device_tests device_bench quantloom-server quantloom-quantizer quantloom libquantloom_cuda.so; do
  cp "$BIN/$file" "$BUNDLE/bin/"
done
# Everything but the C library, which belongs to the machine's loader.
unresolved=$(ldd "$BUNDLE"/bin/* | grep 'not found' || true)
[[ -z $unresolved ]] || fail "libraries are missing: $unresolved"
ldd "$BUNDLE"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u |
  grep -vE '^(libc|libm|libdl|libpthread|librt|libresolv)\.so\.' |
  while read -r name path; do cp -L "$path" "$BUNDLE/lib/$name"; done
strip "$BUNDLE"/bin/* "$BUNDLE"/lib/*
for file in "$BUNDLE"/bin/*; do patchelf --set-rpath "\$ORIGIN:\$ORIGIN/../lib" "$file"; done
for file in "$BUNDLE"/lib/*; do patchelf --set-rpath "\$ORIGIN" "$file"; done

say "Packing models"
work=$(mktemp -d)
quantizer=
end_quantizer() {
  [[ -z $quantizer ]] || kill "$quantizer" 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap end_quantizer EXIT
mkdir -p "$work/state"
"$BIN/tiny_model_writer" "$BUNDLE/sources/random" 256
"$BIN/quantloom-quantizer" --device=cpu --address=127.0.0.1:0 --metrics-address= --port-file="$work/port" \
  --source-root="$BUNDLE/sources" --model-root="$BUNDLE/models" --state-dir="$work/state" 2>"$work/quantizer.log" &
quantizer=$!
for _ in {1..300}; do
  [[ -s $work/port ]] && break
  sleep 0.1
done
[[ -s $work/port ]] || { cat "$work/quantizer.log" >&2; fail "quantloom-quantizer did not start"; }
for recipe in icquant:bits=2,outliers=0.05 icquant:bits=4,outliers=0.05 qtip:bits=2 quip:bits=2; do
  name=${recipe%%,*}
  "$BIN/quantloom" --quantizer "127.0.0.1:$(<"$work/port")" quantize random "${name/:bits=/-}" --recipe "$recipe" \
    >/dev/null || fail "quantizing with $recipe failed"
done
for model in "$@"; do cp -r "$model" "$BUNDLE/models/"; done

cp "$ROOT/scripts/device_bundle/run.sh" "$ROOT/scripts/device_bundle/compare_devices.py" "$BUNDLE/"
tar -C "$(dirname "$BUNDLE")" -cJf "$BUNDLE.tar.xz" "$(basename "$BUNDLE")"
bytes=$(stat -c %s "$BUNDLE.tar.xz")
say "$BUNDLE.tar.xz: $((bytes >> 20)) MiB, unpacked $(du -sm "$BUNDLE" | cut -f1) MiB"
((bytes <= LIMIT_MIB << 20)) || fail "the archive is larger than $LIMIT_MIB MiB"
