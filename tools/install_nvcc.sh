#!/usr/bin/env bash
# Installs NVIDIA's CUDA compiler from PyPI, without root and without a GPU, where the build looks for it.
#
#   tools/install_nvcc.sh [FOLDER]      default: .nvcc beside this repository's Cargo.toml
#
# Needs python3 with pip. Does nothing where the same versions are installed already. Another FOLDER is found through
# CUDA_HOME; the line to set it is printed.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/.nvcc}

# One minor version throughout: nvcc alone would bring newer parts that it does not work with. Hashes for x86-64, then Arm.
packages="nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 --hash=sha256:c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 --hash=sha256:ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0 --hash=sha256:c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 --hash=sha256:ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649 --hash=sha256:6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c"

home=$folder/nvidia/cu13
if [[ ! -x $home/bin/nvcc ]] || [[ $(cat "$folder/packages.txt" 2>/dev/null) != "$packages" ]]; then
    # Filled beside its place and renamed, so that an interrupted installation leaves nothing half done.
    fresh=$(mktemp -d "${folder%/}.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    echo "$packages" >"$fresh/packages.txt"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        --require-hashes --target "$fresh" --requirement "$fresh/packages.txt"
    chmod 755 "$fresh"
    rm -rf "$folder"
    mv "$fresh" "$folder"
    trap - EXIT
    # Cargo asks again where nvcc is only when a file of the build changed.
    touch "$root/build.rs"
fi

"$home/bin/nvcc" --version | grep release
echo "nvcc: $home/bin/nvcc"
if [[ $folder != "$root/.nvcc" ]]; then
    echo "to build with it: export CUDA_HOME=$home"
fi
