#!/usr/bin/env bash
# Installs NVIDIA's CUDA compiler, without root and without a GPU: of CUDA 13 where the build looks for it, or of CUDA 12 for
# older drivers (docs/gpu.md).
#
#   tools/install_nvcc.sh [FOLDER]            CUDA 13.0; default: .nvcc beside this repository's Cargo.toml
#   tools/install_nvcc.sh --cuda12 [FOLDER]   CUDA 12.4; default: .nvcc12
#
# Needs python3 with pip, as all of CUDA 13 and the headers of CUDA 12 come from PyPI. The compiler of CUDA 12 is not there: it is
# taken out of Debian's package, from the mirror that this machine's apt uses. Does nothing where the same versions are installed
# already. What the build does not find by itself it finds through CUDA_HOME; the line to set it is printed. The exit code is 3
# where a machine has no way to get CUDA 12.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cuda=13
if [[ ${1:-} == --cuda12 ]]; then
    cuda=12
    shift
fi
if [[ $# -gt 1 || ${1:-} == -* ]]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

# One minor version throughout: nvcc alone would bring newer parts that it does not work with. Hashes for x86-64, then Arm.
if [[ $cuda == 13 ]]; then
    folder=${1:-$root/.nvcc}
    home=$folder/nvidia/cu13
    packages="nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 --hash=sha256:c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 --hash=sha256:ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0 --hash=sha256:c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 --hash=sha256:ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649 --hash=sha256:6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c"
else
    folder=${1:-$root/.nvcc12}
    home=$folder
    packages="nvidia-cuda-nvcc-cu12==12.4.131 --hash=sha256:e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04 --hash=sha256:00ba32f3d7928548455baa877e748a4676ba0731cfc73d4213336fc67bdc87e9
nvidia-cuda-runtime-cu12==12.4.127 --hash=sha256:64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5 --hash=sha256:961fe0e2e716a2a1d967aab7caee97512f71767f852f67432d572e36cb3a11f3"
fi
debian_release=trixie
debian_package=nvidia-cuda-toolkit
debian_version=12.4.131~12.4.1-2
declare -A debian_hashes=(
    [amd64]=cd5fe85aee38d108b315f408a688641478f2402622a10c677478eb7a6c4e5319
    [arm64]=34c1018e03a87493e2bac39dbb7ca7cff2ca84e64f4556089672ba09c8025858
)

# install_wheels TARGET: the packages from PyPI.
install_wheels() {
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --only-binary=:all: \
        --require-hashes --target "$1" --requirement "$fresh/packages.txt"
}

# cannot REASON: CUDA 12 cannot be had here.
cannot() {
    echo "nvcc of CUDA 12 cannot be installed here: $1." >&2
    echo "Set CUDA_HOME to a CUDA 12 toolkit instead: that of a cluster (module load cuda/12.x), of the distribution or of NVIDIA." >&2
    exit 3
}

# fill_cuda12: puts the toolkit together in $fresh.
fill_cuda12() {
    local work=$fresh/work keyring=/usr/share/keyrings/debian-archive-keyring.gpg tool architecture mirror hash options
    for tool in apt-get dpkg dpkg-deb; do
        command -v "$tool" >/dev/null || cannot "this is no Debian, there is no $tool"
    done
    architecture=$(dpkg --print-architecture)
    hash=${debian_hashes[$architecture]:-}
    [[ -n $hash ]] || cannot "there is no such package for $architecture"
    # Whatever mirror is used for main has the section that NVIDIA's parts are in.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 -E '/debian/?$' || true)
    [[ -n $mirror && -f $keyring ]] || cannot "apt has no mirror of Debian"

    # An apt of its own: the machine's lists stay as they are, and root is not needed. Signatures are checked as always.
    mkdir -p "$work"/{state/lists/partial,cache/archives/partial}
    echo "deb [signed-by=$keyring] $mirror $debian_release non-free" >"$work/sources.list"
    options=(-qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$work/state"
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none)
    apt-get "${options[@]}" update || cannot "apt cannot read the mirror"
    (cd "$work" && apt-get "${options[@]}" download "$debian_package=$debian_version") ||
        cannot "apt cannot get $debian_package $debian_version"
    echo "$hash  $(echo "$work"/*.deb)" | sha256sum --check --quiet

    local lib=./usr/lib/nvidia-cuda-toolkit
    dpkg-deb --fsys-tarfile "$work"/*.deb | tar --extract --directory "$work" \
        ./usr/bin/{cudafe++,fatbinary,nvlink,ptxas} "$lib"/bin/{cicc,crt,nvcc} "$lib/libdevice"
    install_wheels "$work/wheels"
    mkdir -p "$fresh"/{bin,include,nvvm/bin}
    mv "$work"/usr/bin/* "$work/$lib"/bin/{crt,nvcc} "$fresh/bin/"
    mv "$work/$lib/bin/cicc" "$fresh/nvvm/bin/"
    mv "$work/$lib/libdevice" "$fresh/nvvm/"
    cp -r "$work"/wheels/nvidia/{cuda_nvcc,cuda_runtime}/include/. "$fresh/include/"
    # Where nvcc, which looks beside itself, finds the rest.
    # shellcheck disable=SC2016 # nvcc's variables
    printf '%s\n' 'TOP = $(_HERE_)/..' 'NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice' 'PATH += $(TOP)/nvvm/bin:$(_HERE_):' \
        'INCLUDES += "-I$(TOP)/include"' >"$fresh/bin/nvcc.profile"
    rm -rf "$work"
}

if [[ ! -x $home/bin/nvcc ]] || [[ $(cat "$folder/packages.txt" 2>/dev/null) != "$packages" ]]; then
    # Filled beside its place and renamed, so that an interrupted installation leaves nothing half done.
    fresh=$(mktemp -d "${folder%/}.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    echo "$packages" >"$fresh/packages.txt"
    case $cuda in
    12) fill_cuda12 ;;
    *) install_wheels "$fresh" ;;
    esac
    chmod 755 "$fresh"
    rm -rf "$folder"
    mv "$fresh" "$folder"
    trap - EXIT
    # Cargo asks again where nvcc is only when a file of the build changed, or CUDA_HOME.
    [[ $cuda == 12 ]] || touch "$root/build.rs"
fi

"$home/bin/nvcc" --version | grep release
echo "nvcc: $home/bin/nvcc"
if [[ $folder != "$root/.nvcc" ]]; then
    echo "to build with it: export CUDA_HOME=$home"
fi
