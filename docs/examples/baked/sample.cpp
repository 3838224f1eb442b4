// Samples of a baked file in C++, as raw float32 or int64 tokens: sample FILE OUTPUT NAME=VALUE... SEED...
// Whether it computes here what it computed where it was baked: sample --check FILE
//
// For a file of tokens or without `draws`. No token is known. NAME=VALUE is one of:
//
//     class=3         the number of a condition, which fills it for all samples
//     text=@text.f32  the numbers of a condition, raw and in its type: one value for all samples, or one for each
//     frames=97       a free size; else it is that of the test vector
//
// Needs the headers and the library of onnxruntime's release archive, and nothing else:
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
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "conditions.hpp"
#include "noise.hpp"

namespace {

struct Samples {
    std::vector<float> numbers;
    std::vector<std::int64_t> ids;  // of a file of tokens, whose numbers are these
    double milliseconds;
};

// The text behind a key of the file's description, from the place `from` on. The keys are those that docs/bake.md
// names.
std::size_t behind(const std::string& about, const std::string& key, std::size_t from) {
    const auto at = about.find(key, from);
    if (at == std::string::npos) throw std::runtime_error("the file has no " + key + ": bake it again");
    return at + key.size();
}

std::vector<double> list(const std::string& about, const std::string& key, std::size_t from) {
    std::vector<double> values;
    for (const char* at = about.c_str() + behind(about, key, from); *at != ']' && at[-1] != ']'; ++at) {
        char* end = nullptr;
        values.push_back(std::strtod(at, &end));
        at = end;
    }
    return values;
}

std::string described(Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("fewstep", allocator);
    return text ? text.get() : "";
}

std::vector<std::string> input_names(Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> names;
    for (std::size_t place = 0; place < session.GetInputCount(); ++place)
        names.emplace_back(session.GetInputNameAllocated(place, allocator).get());
    return names;
}

// Those that the command line gives.
std::vector<std::string> condition_names(Ort::Session& session) {
    auto names = input_names(session);
    const auto is_made = [](const std::string& name) { return name == "noise" || name == "ids" || name == "draws"; };
    names.erase(std::remove_if(names.begin(), names.end(), is_made), names.end());
    return names;
}

// The names of the free sizes, without the batch.
std::vector<std::string> free_sizes(Ort::Session& session) {
    std::vector<std::string> names;
    for (const auto& name : axis_names(session.GetInputTypeInfo(0)))  // of noise or ids, which are the sizes themselves
        if (!name.empty() && name != "batch") names.push_back(name);
    return names;
}

// A number of the description behind a key, between two places; `other` if it is not there.
double number_in(const std::string& about, const std::string& key, std::size_t from, std::size_t to, double other) {
    const auto at = from < to ? about.find(key, from) : to;
    return at < to ? std::strtod(about.c_str() + at + key.size(), nullptr) : other;
}

// The sizes of a call for these samples: those that are given, and else those of the test vector. Removes them from the
// conditions.
Sizes sizes_of(Ort::Session& session, std::size_t samples, Conditions& conditions) {
    const auto about = described(session);
    Sizes sizes{{"batch", static_cast<std::int64_t>(samples)}};
    for (const auto& name : free_sizes(session)) {
        const auto given = conditions.find(name);
        if (given == conditions.end()) {
            const auto vector = about.find("\"sizes\":{");
            const double size = number_in(about, "\"" + name + "\":", vector, about.find('}', vector), 0);
            if (size > 0) sizes[name] = static_cast<std::int64_t>(size);
            continue;
        }
        const auto own = about.find("{\"name\":\"" + name + "\",\"axis\":"), end = about.find('}', own);
        const auto limit = [&](const char* key, int other) {
            return static_cast<int>(number_in(about, key, own, end, other));
        };
        const int low = limit("\"low\":", 1), high = limit("\"high\":", 1 << 24), step = limit("\"multiple\":", 1);
        const double size = given->second.number;
        if (!given->second.file.empty() || !(size >= low && size <= high) || std::fmod(size, step) != 0)
            throw std::runtime_error(name + " is not " + std::to_string(low) + " to " + std::to_string(high) +
                " in steps of " + std::to_string(step));
        sizes[name] = static_cast<std::int64_t>(size);
        conditions.erase(given);
    }
    return sizes;
}

Samples sampled(Ort::Session& session, const std::vector<std::uint64_t>& seeds, const Conditions& conditions,
    const Sizes& sizes) {
    const auto names = input_names(session);
    const bool is_tokens = names[0] == "ids";  // the first input of other runs is noise
    const auto shape = shape_of(session.GetInputTypeInfo(0), sizes);
    if (shape[0] != static_cast<std::int64_t>(seeds.size()))
        throw std::runtime_error("it samples " + std::to_string(shape[0]) + " at once: give as many seeds");
    std::size_t size = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) size *= static_cast<std::size_t>(shape[axis]);

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> inputs;
    std::vector<const char*> read;
    std::vector<float> noise(is_tokens ? 0 : seeds.size() * size);
    std::vector<std::int64_t> ids(is_tokens ? seeds.size() * size : 0, -1);
    std::vector<double> chances;
    for (std::size_t place = 0; place < names.size(); ++place) {
        const auto& name = names[place];
        read.push_back(name.c_str());
        if (name == "ids") {
            inputs.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, ids.data(), ids.size(), shape.data(),
                shape.size()));
        } else if (name == "draws" && is_tokens) {
            const auto draws = list(described(session), "\"draws\":[", 0);
            chances.resize(draws.size() * ids.size());
            for (std::size_t row = 0; row < draws.size() * seeds.size(); ++row)
                uniforms(seeds[row % seeds.size()], static_cast<std::uint32_t>(draws[row / seeds.size()]), size,
                    &chances[row * size]);
            auto all = shape;
            all.insert(all.begin(), static_cast<std::int64_t>(draws.size()));
            inputs.push_back(Ort::Value::CreateTensor<double>(memory, chances.data(), chances.size(), all.data(),
                all.size()));
        } else if (name == "draws") {
            throw std::runtime_error("it takes draws, which this program makes for tokens alone");
        } else if (name == "noise") {
            for (std::size_t row = 0; row < seeds.size(); ++row) normal(seeds[row], 0, size, noise.data() + row * size);
            inputs.push_back(Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), shape.data(),
                shape.size()));
        } else {
            inputs.push_back(tensor_of(name, session.GetInputTypeInfo(place), sizes, value_of(conditions, name)));
        }
    }
    const std::array<const char*, 1> results{"sample"};
    const auto started = std::chrono::steady_clock::now();
    const auto outputs = session.Run(Ort::RunOptions{}, read.data(), inputs.data(), inputs.size(), results.data(), 1);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - started;
    if (is_tokens) {
        const auto* first = outputs[0].GetTensorData<std::int64_t>();
        return {{first, first + ids.size()}, {first, first + ids.size()}, taken.count()};
    }
    const float* first = outputs[0].GetTensorData<float>();
    return {{first, first + noise.size()}, {}, taken.count()};
}

// The sample of the test vector against the 64 numbers that the file stores of it, by PSNR with peak 2, or by the share
// of equal tokens. `fewstep verify` compares the checksum of the bytes too.
int check(Ort::Session& session) {
    const std::string about = described(session);
    const auto sample = behind(about, "\"sample\":{", 0);
    const auto number = [&](const char* key) {
        return std::strtod(about.c_str() + behind(about, key, sample), nullptr);
    };
    const auto seed = static_cast<std::uint64_t>(number("\"seed\":"));
    Conditions conditions;
    for (const auto& name : condition_names(session)) conditions[name] = {number(("\"" + name + "\":").c_str())};
    Conditions none;
    const auto batch = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[0];
    std::vector<std::uint64_t> seeds;
    const auto count = static_cast<std::size_t>(std::max<std::int64_t>(batch, 1));
    while (seeds.size() < count) seeds.push_back(seed + seeds.size());
    const auto samples = sampled(session, seeds, conditions, sizes_of(session, seeds.size(), none));

    const auto values = list(about, "\"values\":[", sample);
    double squares = 0, same = 0;
    for (std::size_t k = 0; k < values.size(); ++k) {
        const double off = samples.numbers[k * samples.numbers.size() / values.size()] - values[k];
        squares += off * off;
        same += off == 0;
    }
    if (!samples.ids.empty()) {
        const bool are_enough = 2 * same >= static_cast<double>(values.size());
        std::printf("%s: %.0f of %zu tokens are equal\n", are_enough ? "the same" : "another sample", same,
            values.size());
        return are_enough ? 0 : 1;
    }
    const double psnr = 10 * std::log10(4.0 * static_cast<double>(values.size()) / std::max(squares, 1e-18));
    const auto is_in = [&](const char* type) {
        return about.find("\"precision\":\"" + std::string(type)) != std::string::npos;
    };
    const double floats = is_in("bfloat16") ? 30.0 : is_in("float16") ? 40.0 : 70.0;  // other kernels round more
    const double least = is_in("int8") ? 30.0 : is_in("int4") ? 30.0 : floats;
    const bool is_same = psnr >= least;
    std::printf("%s: %.1f dB from the sample of where it was baked\n", is_same ? "the same" : "another sample", psnr);
    return is_same ? 0 : 1;
}

int run(char** arguments, const Arguments& given, bool checks) {
    Ort::Env environment(ORT_LOGGING_LEVEL_FATAL, "sample");  // what goes wrong is one line, below
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(environment, arguments[checks ? 2 : 1], options);
    if (checks) return check(session);

    const std::string about = described(session);
    if (about.find("\"meaning\":\"ids\"") != std::string::npos)
        throw std::runtime_error(
            "it takes the token ids of a prompt, which this program does not make: see docs/bake.md");
    Conditions conditions = given.conditions;
    auto names = condition_names(session);
    for (const auto& name : free_sizes(session)) names.push_back(name);
    check_names(conditions, names);
    const auto sizes = sizes_of(session, given.seeds.size(), conditions);
    const auto samples = sampled(session, given.seeds, conditions, sizes);
    std::ofstream file(arguments[2], std::ios::binary);
    const bool is_tokens = !samples.ids.empty();
    const auto* first = is_tokens ? static_cast<const void*>(samples.ids.data()) : samples.numbers.data();
    const auto bytes = samples.numbers.size() * (is_tokens ? sizeof(std::int64_t) : sizeof(float));
    if (!file.write(static_cast<const char*>(first), static_cast<std::streamsize>(bytes))) {
        std::fprintf(stderr, "%s cannot be written\n", arguments[2]);
        return 1;
    }
    std::printf("%zu samples in %.0f ms\n", given.seeds.size(), samples.milliseconds);
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    const bool checks = count == 3 && std::string(arguments[1]) == "--check";
    const auto given = parsed(count, arguments, 3);
    if (given.seeds.empty() && !checks) {
        std::fprintf(stderr, "usage: %s FILE OUTPUT NAME=VALUE... SEED...\n       %s --check FILE\n", arguments[0],
            arguments[0]);
        return 2;
    }
    try {
        return run(arguments, given, checks);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", arguments[checks ? 2 : 1], error.what());
        return 1;
    }
}
