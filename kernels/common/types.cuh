// Integer names and 16-byte vectors, for nvcc and the host's compiler.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "integer sizes");

/// Four words that are loaded and stored as one.
struct alignas(16) u32x4 {
    u32 x, y, z, w;
};

/// Four floats that are loaded and stored as one.
struct alignas(16) f32x4 {
    float x, y, z, w;
};
