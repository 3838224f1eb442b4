// Samples of a baked file in C++, written as raw float32: sample FILE OUTPUT CLASS SEED...
// Whether it computes here what it computed where it was baked: sample --check FILE
//
// For a file with a condition `class` and without `draws`. Needs the headers and the library of onnxruntime's release
// archive, and nothing else:
//
//     g++ -std=c++17 -O2 -I "$ONNXRUNTIME/include" sample.cpp -L "$ONNXRUNTIME/lib" -lonnxruntime -o sample

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "noise.hpp"

namespace {

struct Samples {
    std::vector<float> numbers;
    double milliseconds;
};

Samples sampled(Ort::Session& session, const std::vector<std::uint64_t>& seeds, std::int64_t label) {
    auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // noise is the first input
    shape[0] = static_cast<std::int64_t>(seeds.size());
    std::size_t size = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) size *= static_cast<std::size_t>(shape[axis]);

    std::vector<float> noise(seeds.size() * size);
    for (std::size_t place = 0; place < seeds.size(); ++place) normal(seeds[place], 0, size, noise.data() + place * size);
    std::vector<std::int64_t> labels(seeds.size(), label);
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
    const float* first = outputs[0].GetTensorData<float>();
    return {{first, first + noise.size()}, taken.count()};
}

// The text behind a key of the file's description, from the place `from` on. The keys are those that docs/bake.md names.
std::size_t behind(const std::string& about, const std::string& key, std::size_t from) {
    const auto at = about.find(key, from);
    if (at == std::string::npos) throw std::runtime_error("the file has no test vector of a class: bake it again");
    return at + key.size();
}

// The sample of the test vector against the 64 numbers that the file stores of it, by PSNR with peak 2. `fewstep verify`
// compares the checksum of the bytes too.
int check(Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("fewstep", allocator);
    const std::string about = text ? text.get() : "";
    const auto sample = behind(about, "\"sample\":{", 0);
    const auto number = [&](const char* key) { return std::strtod(about.c_str() + behind(about, key, sample), nullptr); };
    const auto seed = static_cast<std::uint64_t>(number("\"seed\":"));
    const auto samples = sampled(session, {seed}, static_cast<std::int64_t>(number("\"class\":")));

    std::vector<double> values;
    for (const char* at = about.c_str() + behind(about, "\"values\":[", sample); at[-1] != ']'; ++at) {
        char* end = nullptr;
        values.push_back(std::strtod(at, &end));
        at = end;
    }
    double squares = 0;
    for (std::size_t k = 0; k < values.size(); ++k) {
        const double off = samples.numbers[k * samples.numbers.size() / values.size()] - values[k];
        squares += off * off;
    }
    const double psnr = 10 * std::log10(4.0 * static_cast<double>(values.size()) / std::max(squares, 1e-18));
    const auto is_in = [&](const char* type) { return about.find("\"precision\":\"" + std::string(type)) != std::string::npos; };
    const bool is_same = psnr >= (is_in("int8") ? 30.0 : is_in("float16") ? 40.0 : 70.0);  // other kernels round to more
    std::printf("%s: %.1f dB from the sample of where it was baked\n", is_same ? "the same" : "another sample", psnr);
    return is_same ? 0 : 1;
}

int run(int count, char** arguments, bool checks) {
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "sample");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(environment, arguments[checks ? 2 : 1], options);
    if (checks) return check(session);

    std::vector<std::uint64_t> seeds;
    for (int place = 4; place < count; ++place) seeds.push_back(std::strtoull(arguments[place], nullptr, 10));
    const auto samples = sampled(session, seeds, std::strtoll(arguments[3], nullptr, 10));
    std::ofstream file(arguments[2], std::ios::binary);
    const auto bytes = static_cast<std::streamsize>(samples.numbers.size() * sizeof(float));
    if (!file.write(reinterpret_cast<const char*>(samples.numbers.data()), bytes)) {
        std::fprintf(stderr, "%s cannot be written\n", arguments[2]);
        return 1;
    }
    std::printf("%zu samples in %.0f ms\n", seeds.size(), samples.milliseconds);
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    const bool checks = count == 3 && std::string(arguments[1]) == "--check";
    if (count < 5 && !checks) {
        std::fprintf(stderr, "usage: %s FILE OUTPUT CLASS SEED...\n       %s --check FILE\n", arguments[0], arguments[0]);
        return 2;
    }
    try {
        return run(count, arguments, checks);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
