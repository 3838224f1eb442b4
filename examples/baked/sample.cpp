// Samples of a baked file in C++, written as raw float32: sample FILE OUTPUT CLASS SEED...
//
// Needs the headers and the library of onnxruntime's release archive, and nothing else:
//
//     g++ -std=c++17 -O2 -I "$ONNXRUNTIME/include" sample.cpp -L "$ONNXRUNTIME/lib" -lonnxruntime -o sample

#include <onnxruntime_cxx_api.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <vector>

namespace {

using Words = std::array<std::uint32_t, 4>;

// Ten rounds of Philox-4x32 (Salmon, Moraes, Dror, Shaw 2011).
Words philox(Words c, std::uint64_t seed) {
    auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0], p1 = std::uint64_t{0xCD9E8D57u} * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    }
    return c;
}

// `count` standard normal numbers of a draw of a seed: the values of fewstep.plans.noise, by Box-Muller in float64.
void normal(std::uint64_t seed, std::uint32_t draw, std::size_t count, float* values) {
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

int run(int count, char** arguments) {
    const std::vector<const char*> seeds(arguments + 4, arguments + count);
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "sample");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(environment, arguments[1], options);

    auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // noise is the first input
    shape[0] = static_cast<std::int64_t>(seeds.size());
    std::size_t size = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) size *= static_cast<std::size_t>(shape[axis]);

    std::vector<float> noise(seeds.size() * size);
    for (std::size_t place = 0; place < seeds.size(); ++place)
        normal(std::strtoull(seeds[place], nullptr, 10), 0, size, noise.data() + place * size);
    std::vector<std::int64_t> labels(seeds.size(), std::strtoll(arguments[3], nullptr, 10));
    const std::array<std::int64_t, 1> batch{shape[0]};

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::array<Ort::Value, 2> inputs{
        Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), shape.data(), shape.size()),
        Ort::Value::CreateTensor<std::int64_t>(memory, labels.data(), labels.size(), batch.data(), batch.size())};
    const std::array<const char*, 2> names{"noise", "class"};
    const std::array<const char*, 1> results{"sample"};
    const auto started = std::chrono::steady_clock::now();
    const auto outputs = session.Run(Ort::RunOptions{}, names.data(), inputs.data(), inputs.size(), results.data(), 1);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - started;

    std::ofstream file(arguments[2], std::ios::binary);
    const auto bytes = static_cast<std::streamsize>(noise.size() * sizeof(float));
    if (!file.write(reinterpret_cast<const char*>(outputs[0].GetTensorData<float>()), bytes)) {
        std::fprintf(stderr, "%s cannot be written\n", arguments[2]);
        return 1;
    }
    std::printf("%zu samples in %.0f ms\n", seeds.size(), taken.count());
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 5) {
        std::fprintf(stderr, "usage: %s FILE OUTPUT CLASS SEED...\n", arguments[0]);
        return 2;
    }
    try {
        return run(count, arguments);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
