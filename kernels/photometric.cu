// Colours of RGB images, [n, h, w, 3]: 8-bit pixels to network input, and the changes of strong augmentation with
// torchvision's definitions.
//
//   normalize_bytes   y = (byte / 255 - mean) / std, 0 outside the part of the image that is shown
//   gray_sums         sums of the grey of parts of each image after the adjustments before contrast, for its mean
//   photometric       y = (v - mean) / std, v the colours after up to four adjustments, grey and a separable Gaussian
//                     blur with reflected borders. Colours are the mean outside the part that is shown.
//
// A block of photometric makes a tile. It goes down the source rows that the blur of the tile reaches, a few at a time:
// computes their colours from the bytes, blurs them along the row, and adds them to the outputs that they reach, whose
// sums stay in registers. So nothing but the input is read and nothing but the output written, and the border costs a
// row of shared memory, not a tile: memory for a row limits the width of the blur (MAX_BLUR_KERNEL in
// src/ops/photometric.rs).
#include "common/reduce.cuh"
#include "common/vector.cuh"

constexpr int THREADS = 256;
/// Outputs of a block; a warp has neighbouring columns.
constexpr u32 TILE_COLUMNS = 64, TILE_ROWS = 16;
/// Source rows at a time; a thread blurs one output column of one of them.
constexpr u32 GROUP = THREADS / TILE_COLUMNS;
/// Output rows of a thread.
constexpr u32 STRIP = TILE_ROWS / GROUP;

/// Kinds of adjustments; any other is saturation.
constexpr u32 BRIGHTNESS = 0, CONTRAST = 1, HUE = 3;

/// Normalisation of a colour.
struct Affine {
    float mean[3], std[3];
};

/// Part of an image: first row and column, and those after the last.
struct alignas(16) Shown {
    u32 y0, x0, y1, x1;

    DEVICE bool holds(u32 row, u32 column) const { return row >= y0 && row < y1 && column >= x0 && column < x1; }
};

/// The drawn changes of one image; `Change` in src/backend/cuda/photometric.rs.
struct Change {
    u32 shown[4];
    u32 kinds[4];
    float factors[4];
    /// Number of adjustments, and of those before contrast (all where there is none).
    u32 count, before_contrast;
    u32 gray;
    /// Radius of the blur, and the index of its first tap in `taps`.
    u32 radius, taps;
};

DEVICE float to_color(u8 v) { return float(v) * (1.0f / 255.0f); }
DEVICE float to_color(float v) { return v; }
DEVICE float to_color(bf16 v) { return to_float(v); }

DEVICE float unit(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }

DEVICE float luma(const float (&rgb)[3]) { return 0.2989f * rgb[0] + 0.587f * rgb[1] + 0.114f * rgb[2]; }

/// v - v s max(0, min(k, 4 - k, 1)) with k = (n + h) mod 6, h in sixths of the circle; n = 5, 3, 1 for red, green,
/// blue.
DEVICE float from_hue(float n, float h, float max, float chroma) {
    float k = n + h;
    k = k >= 6.0f ? k - 6.0f : k;
    return unit(max - chroma * unit(fminf(k, 4.0f - k)));
}

DEVICE void turn_hue(float (&rgb)[3], float turn) {
    float red = rgb[0], green = rgb[1], blue = rgb[2];
    float max = fmaxf(fmaxf(red, green), blue), chroma = max - fminf(fminf(red, green), blue);
    float inverse = chroma == 0.0f ? 0.0f : 1.0f / chroma;
    float sixths = fmaf(red - green, inverse, 4.0f);
    sixths = max == green ? fmaf(blue - red, inverse, 2.0f) : sixths;
    sixths = max == red ? (green - blue) * inverse : sixths;
    float turned = sixths * (1.0f / 6.0f) + 1.0f + turn;
    float h = (turned - floorf(turned)) * 6.0f;
    rgb[0] = from_hue(5.0f, h, max, chroma);
    rgb[1] = from_hue(3.0f, h, max, chroma);
    rgb[2] = from_hue(1.0f, h, max, chroma);
}

/// The first `count` adjustments; `mean` is the grey that contrast blends with.
DEVICE void adjust(float (&rgb)[3], const Change& change, u32 count, float mean) {
#pragma unroll 1
    for (u32 i = 0; i < count; ++i) {
        u32 kind = change.kinds[i];
        float factor = change.factors[i];
        if (kind == HUE) {
            turn_hue(rgb, factor);
        } else {
            float grey = kind == CONTRAST ? mean : luma(rgb),
                  shift = kind == BRIGHTNESS ? 0.0f : (1.0f - factor) * grey;
#pragma unroll
            for (int c = 0; c < 3; ++c) rgb[c] = unit(fmaf(rgb[c], factor, shift));
        }
    }
}

/// Colours of a pixel of the image at `x`.
template <class In>
DEVICE void read(float (&rgb)[3], const In* x, const Change& change, const Affine& affine, u32 w, u32 row, u32 column) {
    Shown shown{change.shown[0], change.shown[1], change.shown[2], change.shown[3]};
    const In* pixel = x + (u64(row) * w + column) * 3;
    bool holds = shown.holds(row, column);
#pragma unroll
    for (int c = 0; c < 3; ++c) rgb[c] = holds ? to_color(pixel[c]) : affine.mean[c];
}

/// Loads the changes of `image` to shared memory.
DEVICE void load_change(Change& change, const Change* changes, u64 image) {
    constexpr u32 words = sizeof(Change) / sizeof(u32);
    if (threadIdx.x < words) {
        reinterpret_cast<u32*>(&change)[threadIdx.x] = reinterpret_cast<const u32*>(changes + image)[threadIdx.x];
    }
    block_sync();
}

/// sums [n, parts], of images with contrast; one block per part.
template <class In>
DEVICE void gray_sums(double* sums, const In* x, const Change* changes, const Affine& affine, u32 parts, u32 h, u32 w) {
    SHARED(double, warps, THREADS / 32);
    SHARED(Change, change, 1);
    u32 image = blockIdx.x / parts, part = blockIdx.x % parts;
    load_change(change[0], changes, image);
    u32 before = change[0].before_contrast;
    if (before < change[0].count) {
        u64 pixels = u64(h) * w, len = (pixels + parts - 1) / parts, end = min(pixels, (part + 1) * len);
        float sum = 0.0f;
        for (u64 i = part * len + threadIdx.x; i < end; i += THREADS) {
            u64 row = i;
            u32 column = split(row, w);
            float rgb[3];
            read(rgb, x + image * pixels * 3, change[0], affine, w, u32(row), column);
            adjust(rgb, change[0], before, 0.0f);
            sum += luma(rgb);
        }
        double total = block_sum<THREADS>(double(sum), warps);
        if (threadIdx.x == 0) sums[blockIdx.x] = total;
    }
}

/// Position `i` folded into 0 to len - 1 by reflection at the edge pixels, as often as needed.
DEVICE u32 reflect(i32 i, u32 len) {
    if (i >= 0 && i < i32(len)) return u32(i);
    if (len == 1) return 0;
    i32 last = i32(len) - 1;
    i = (i < 0 ? -i : i) % (2 * last);
    return u32(i > last ? 2 * last - i : i);
}

template <class Out, class In>
DEVICE void photometric(Out* y, const In* x, const Change* changes, const float* taps, const double* sums,
                        const Affine& affine, u32 parts, u32 h, u32 w) {
    SHARED(double, warps, THREADS / 32);
    SHARED(Change, shared_change, 1);
    DYNAMIC_SHARED(float, memory);
    const Change& change = shared_change[0];
    u64 image = blockIdx.x;
    u32 tile_x = split(image, (w + TILE_COLUMNS - 1) / TILE_COLUMNS) * TILE_COLUMNS;
    u32 tile_y = split(image, (h + TILE_ROWS - 1) / TILE_ROWS) * TILE_ROWS;
    load_change(shared_change[0], changes, image);

    float mean = 0.0f;
    if (change.before_contrast < change.count) {
        double sum = 0.0;
        for (u32 i = threadIdx.x; i < parts; i += THREADS) sum += sums[image * parts + i];
        mean = float(block_sum<THREADS>(sum, warps) / (double(h) * w));
    }

    u32 radius = change.radius, num_taps = 2 * radius + 1, width = TILE_COLUMNS + 2 * radius;
    float* tap = memory;
    float* colors = tap + num_taps;               // [GROUP, 3, width]
    float* blurred = colors + GROUP * 3 * width;  // [GROUP, 3, TILE_COLUMNS]
    for (u32 i = threadIdx.x; i < num_taps; i += THREADS) tap[i] = taps[change.taps + i];

    const In* source = x + image * h * w * 3;
    u32 column = threadIdx.x % TILE_COLUMNS, group = threadIdx.x / TILE_COLUMNS;
    float sum[STRIP][3] = {};
    // Rows count from the tile's first; source row s reaches output rows s - radius to s + radius.
    i32 reach = i32(radius), end = i32(TILE_ROWS) + reach;
    for (i32 first = -reach; first < end; first += i32(GROUP)) {
        for (u32 i = threadIdx.x; i < GROUP * width; i += THREADS) {
            u32 k = i / width, at = i - k * width;
            u32 row = reflect(i32(tile_y + k) + first, h), from = reflect(i32(tile_x + at) - reach, w);
            float rgb[3];
            read(rgb, source, change, affine, w, row, from);
            adjust(rgb, change, change.count, mean);
            if (change.gray) rgb[0] = rgb[1] = rgb[2] = luma(rgb);
#pragma unroll
            for (int c = 0; c < 3; ++c) colors[(k * 3 + c) * width + at] = rgb[c];
        }
        block_sync();
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            const float* line = colors + (group * 3 + c) * width + column;
            float v = 0.0f;
            for (u32 i = 0; i < num_taps; ++i) v = fmaf(line[i], tap[i], v);
            blurred[(group * 3 + c) * TILE_COLUMNS + column] = v;
        }
        block_sync();
#pragma unroll
        for (u32 k = 0; k < GROUP; ++k) {
#pragma unroll
            for (u32 j = 0; j < STRIP; ++j) {
                u32 i = u32(first + i32(k) + reach) - (group * STRIP + j);
                if (i < num_taps) {
#pragma unroll
                    for (int c = 0; c < 3; ++c) {
                        sum[j][c] = fmaf(blurred[(k * 3 + c) * TILE_COLUMNS + column], tap[i], sum[j][c]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < STRIP; ++j) {
        u32 row = tile_y + group * STRIP + j;
        if (row < h && tile_x + column < w) {
            Out* out = y + ((image * h + row) * w + tile_x + column) * 3;
#pragma unroll
            for (int c = 0; c < 3; ++c) out[c] = from_float<Out>((sum[j][c] - affine.mean[c]) * (1.0f / affine.std[c]));
        }
    }
}

/// `count` neighbouring pixels from `first` on.
template <int count, class Out>
DEVICE void normalize_run(Out* y, const u8* x, const Shown* shown, const Affine& affine, u64 first, u32 h, u32 w) {
    float v[3 * count];
#pragma unroll
    for (int part = 0; part < 3; ++part) {
        Pack<u8, count> bytes = load_pack<count>(x + first * 3 + part * count);
#pragma unroll
        for (int i = 0; i < count; ++i) v[part * count + i] = float(bytes.v[i]);
    }
    u64 image = first;
    u32 column = split(image, w), row = split(image, h);
#pragma unroll
    for (int k = 0; k < count; ++k) {
        if (k > 0 && ++column == w) {
            column = 0;
            if (++row == h) row = 0, ++image;
        }
        bool holds = shown[image].holds(row, column);
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            float& value = v[3 * k + c];
            value = holds ? (value / 255.0f - affine.mean[c]) / affine.std[c] : 0.0f;
        }
    }
#pragma unroll
    for (int part = 0; part < 3; ++part) {
        float out[count];
#pragma unroll
        for (int i = 0; i < count; ++i) out[i] = v[part * count + i];
        store(y + first * 3 + part * count, out);
    }
}

template <class Out>
DEVICE void normalize_bytes(Out* y, const u8* x, const Shown* shown, const Affine& affine, u64 positions, u32 h,
                            u32 w) {
    u64 runs = positions / 4;
    for (u64 i = grid_thread(); i < runs; i += grid_threads()) normalize_run<4>(y, x, shown, affine, 4 * i, h, w);
    for (u64 i = 4 * runs + grid_thread(); i < positions; i += grid_threads()) {
        normalize_run<1>(y, x, shown, affine, i, h, w);
    }
}

KERNEL(256)
normalize_bytes_f32(float* y, const u8* x, const Shown* shown, const Affine affine, u64 positions, u32 h, u32 w) {
    normalize_bytes(y, x, shown, affine, positions, h, w);
}
KERNEL(256)
normalize_bytes_bf16(bf16* y, const u8* x, const Shown* shown, const Affine affine, u64 positions, u32 h, u32 w) {
    normalize_bytes(y, x, shown, affine, positions, h, w);
}
KERNEL(256)
gray_sums_u8(double* sums, const u8* x, const Change* changes, const Affine affine, u32 parts, u32 h, u32 w) {
    gray_sums(sums, x, changes, affine, parts, h, w);
}
KERNEL(256)
gray_sums_f32(double* sums, const float* x, const Change* changes, const Affine affine, u32 parts, u32 h, u32 w) {
    gray_sums(sums, x, changes, affine, parts, h, w);
}
KERNEL(256)
gray_sums_bf16(double* sums, const bf16* x, const Change* changes, const Affine affine, u32 parts, u32 h, u32 w) {
    gray_sums(sums, x, changes, affine, parts, h, w);
}
KERNEL(256)
photometric_u8_f32(float* y, const u8* x, const Change* changes, const float* taps, const double* sums,
                   const Affine affine, u32 parts, u32 h, u32 w) {
    photometric(y, x, changes, taps, sums, affine, parts, h, w);
}
KERNEL(256)
photometric_u8_bf16(bf16* y, const u8* x, const Change* changes, const float* taps, const double* sums,
                    const Affine affine, u32 parts, u32 h, u32 w) {
    photometric(y, x, changes, taps, sums, affine, parts, h, w);
}
KERNEL(256)
photometric_f32(float* y, const float* x, const Change* changes, const float* taps, const double* sums,
                const Affine affine, u32 parts, u32 h, u32 w) {
    photometric(y, x, changes, taps, sums, affine, parts, h, w);
}
KERNEL(256)
photometric_bf16(bf16* y, const bf16* x, const Change* changes, const float* taps, const double* sums,
                 const Affine affine, u32 parts, u32 h, u32 w) {
    photometric(y, x, changes, taps, sums, affine, parts, h, w);
}
REGISTER_KERNEL(normalize_bytes_f32)
REGISTER_KERNEL(normalize_bytes_bf16)
REGISTER_KERNEL(gray_sums_u8)
REGISTER_KERNEL(gray_sums_f32)
REGISTER_KERNEL(gray_sums_bf16)
REGISTER_KERNEL(photometric_u8_f32)
REGISTER_KERNEL(photometric_u8_bf16)
REGISTER_KERNEL(photometric_f32)
REGISTER_KERNEL(photometric_bf16)
