// The noise of fewstep.plans.noise, the same on every platform: for sample.cpp and steps.cpp.

#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

using Words = std::array<std::uint32_t, 4>;

// Ten rounds of Philox-4x32 (Salmon, Moraes, Dror, Shaw 2011).
inline Words philox(Words c, std::uint64_t seed) {
    auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0], p1 = std::uint64_t{0xCD9E8D57u} * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    }
    return c;
}

// `count` standard normal numbers of a draw of a seed: the values of fewstep.plans.noise, by Box-Muller in float64.
inline void normal(std::uint64_t seed, std::uint32_t draw, std::size_t count, float* values) {
    constexpr double pi = 3.14159265358979323846;
    for (std::size_t element = 0; element < count; ++element) {
        const std::uint64_t block = element / 4;
        const Words words = philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), draw, 0}, seed);
        const std::size_t pair = element % 4 / 2 * 2;
        const double radius = std::sqrt(-2.0 * std::log((words[pair] + 0.5) * 0x1p-32));
        const double angle = 2.0 * pi * ((words[pair + 1] + 0.5) * 0x1p-32);
        values[element] = static_cast<float>(radius * (element % 2 ? std::sin(angle) : std::cos(angle)));
    }
}

// `count` chances in (0, 1) of a draw of a seed: fewstep.plans.noise.uniforms, 52 bits of each pair of words.
inline void uniforms(std::uint64_t seed, std::uint32_t draw, std::size_t count, double* values) {
    for (std::size_t element = 0; element < count; ++element) {
        const std::uint64_t block = element / 2;
        const Words words = philox({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), draw, 3}, seed);
        const std::uint64_t bits = std::uint64_t{words[element % 2 * 2]} << 32 | words[element % 2 * 2 + 1];
        values[element] = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
    }
}
