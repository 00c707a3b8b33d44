// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
// the same numbers as src/rng.rs.
#pragma once

#include "device.cuh"

/// A family of numbers: `key` of src/rng.rs.
struct PhiloxKey {
    u32 key[2];
    u32 domain;
    u32 step[2];
};

/// The four words of counter `block` of a family; `block` is below 2^56.
DEVICE void philox_block(u32 (&words)[4], const PhiloxKey& family, u64 block) {
    u32 k0 = family.key[0], k1 = family.key[1];
    u32 c0 = u32(block), c1 = u32(block >> 32) << 8 | family.domain, c2 = family.step[0], c3 = family.step[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 p0 = u64(0xD2511F53u) * c0, p1 = u64(0xCD9E8D57u) * c2;
        c0 = u32(p1 >> 32) ^ c1 ^ k0;
        c2 = u32(p0 >> 32) ^ c3 ^ k1;
        c1 = u32(p1);
        c3 = u32(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

/// The upper 24 bits of a word as a number in [0, 1).
DEVICE float philox_unit(u32 word) { return float(word >> 8) * (1.0f / 16777216.0f); }
