// Samples by a loop in this program, written as raw float32: steps FOLDER OUTPUT NAME=VALUE... SEED...
//
// FOLDER is what steps.py wrote, for as many samples as there are seeds. NAME=VALUE is the number of a condition, which
// fills it for all samples: class=3. The parts before and after the steps run on the CPU. The step runs on Qualcomm's
// NPU where $QNN_PLUGIN names onnxruntime_providers_qnn and $QNN_HTP its libQnnHtp, both of onnxruntime-qnn, and else
// on the CPU. $QNN_SOC is Qualcomm's number of a chip, which x86 needs to play one: 60. Needs what sample.cpp needs,
// and onnxruntime 1.23 or later for the NPU:
//
//     g++ -std=c++17 -O2 -I "$ONNXRUNTIME/include" steps.cpp -L "$ONNXRUNTIME/lib" -lonnxruntime -o steps

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "conditions.hpp"
#include "noise.hpp"

namespace {

using Values = std::map<std::string, std::shared_ptr<Ort::Value>>;  // tensors by name, which may have several

struct Row {
    std::string start, before, after, end;  // its names before all steps, before a step, after it, and after all
};

// One graph of the folder.
class Part {
public:
    Part(Ort::Env& environment, const std::string& file, const Ort::SessionOptions& options)
        : session_(environment, file.c_str(), options) {
        Ort::AllocatorWithDefaultOptions allocator;
        for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
            inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
        }
        for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
            outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
        }
    }

    const std::vector<std::string>& inputs() const { return inputs_; }
    const std::vector<std::string>& outputs() const { return outputs_; }

    Ort::TypeInfo type(const std::string& input) const {
        const auto found = std::find(inputs_.begin(), inputs_.end(), input);
        if (found == inputs_.end()) throw std::runtime_error("it takes no " + input);
        return session_.GetInputTypeInfo(static_cast<std::size_t>(found - inputs_.begin()));
    }

    // What it makes joins what it reads.
    void run(Values& values) {
        std::vector<const char*> read, made;
        std::vector<const OrtValue*> feeds;
        for (const auto& name : inputs_) {
            const auto value = values.find(name);
            if (value == values.end()) {
                throw std::runtime_error("it takes " + name + ", which this program does not give");
            }
            read.push_back(name.c_str());
            feeds.push_back(*value->second);
        }
        for (const auto& name : outputs_) made.push_back(name.c_str());
        std::vector<OrtValue*> results(made.size(), nullptr);
        Ort::ThrowOnError(Ort::GetApi().Run(session_, nullptr, read.data(), feeds.data(), feeds.size(), made.data(),
            made.size(), results.data()));
        for (std::size_t i = 0; i < results.size(); ++i) values[outputs_[i]] = std::make_shared<Ort::Value>(results[i]);
    }

private:
    Ort::Session session_;
    std::vector<std::string> inputs_, outputs_;
};

// Where the step runs.
Ort::SessionOptions on_npu(Ort::Env& environment) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    const char *plugin = std::getenv("QNN_PLUGIN"), *htp = std::getenv("QNN_HTP");
    if (!plugin || !htp) return options;
#if ORT_API_VERSION >= 23
    constexpr char provider[] = "QNNExecutionProvider";
    environment.RegisterExecutionProviderLibrary(provider, plugin);
    for (const auto& device : environment.GetEpDevices()) {
        if (device.EpName() != std::string(provider)) continue;
        std::unordered_map<std::string, std::string> settings{{"backend_path", htp}};
        if (const char* soc = std::getenv("QNN_SOC")) settings["soc_model"] = soc;
        options.AppendExecutionProvider_V2(environment, {device}, settings);
        return options;
    }
    throw std::runtime_error("onnxruntime-qnn names no device");
#else
    (void)environment;
    throw std::runtime_error("the headers are older than onnxruntime 1.23, which first takes a provider as a plugin");
#endif
}

// The file of a part. Folders that earlier versions of steps.py wrote have it under another name.
std::string part_file(const std::string& folder, const std::string& name, const std::string& former) {
    const auto file = folder + "/" + name + ".onnx";
    return std::ifstream(file) ? file : folder + "/" + former + ".onnx";
}

void sample(const std::string& folder, const std::string& output, const Arguments& given) {
    const auto& seeds = given.seeds;
    std::ifstream table(folder + "/steps.txt");
    std::int64_t count = 0;
    std::string number;
    std::vector<Row> rows;
    table >> count >> number;
    for (Row row; table >> row.start >> row.before >> row.after >> row.end;) rows.push_back(row);
    if (rows.empty()) throw std::runtime_error(folder + " has no steps.txt: write it with steps.py");

    Ort::Env environment(ORT_LOGGING_LEVEL_FATAL, "steps");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Part first(environment, part_file(folder, "before", "ahead"), options);
    Part last(environment, part_file(folder, "after", "behind"), options);
    const auto step_options = on_npu(environment);
    Part step(environment, folder + "/step.onnx", step_options);

    auto shape = first.type("noise").GetTensorTypeAndShapeInfo().GetShape();
    shape[0] = static_cast<std::int64_t>(seeds.size());
    std::size_t size = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) size *= static_cast<std::size_t>(shape[axis]);
    std::vector<float> noise(seeds.size() * size);
    for (std::size_t place = 0; place < seeds.size(); ++place) {
        normal(seeds[place], 0, size, noise.data() + place * size);
    }

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Values values;
    const auto kept = [](Ort::Value value) { return std::make_shared<Ort::Value>(std::move(value)); };
    values["noise"] = kept(Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), shape.data(),
        shape.size()));
    std::set<std::string> made{"noise", number};
    for (const auto& row : rows) made.insert({row.before, row.end});
    std::map<std::string, const Part*> conditions;  // by what no part makes, with the first part that reads it
    for (const auto* part : {&first, &step, &last}) {
        for (const auto& name : part->inputs())
            if (!made.count(name)) conditions.emplace(name, part);
        made.insert(part->outputs().begin(), part->outputs().end());
    }
    std::vector<std::string> names;
    for (const auto& each : conditions) names.push_back(each.first);
    check_names(given.conditions, names);
    for (const auto& [name, part] : conditions)
        values[name] = kept(tensor_of(name, part->type(name), {{"batch", shape[0]}}, value_of(given.conditions, name)));
    const auto started = std::chrono::steady_clock::now();
    first.run(values);
    for (const auto& row : rows) values[row.before] = values.at(row.start);
    for (std::int64_t place = 0; place < count; ++place) {
        values[number] = kept(Ort::Value::CreateTensor<std::int64_t>(memory, &place, 1, nullptr, 0));
        step.run(values);
        for (const auto& row : rows) values[row.before] = values.at(row.after);
    }
    for (const auto& row : rows) values[row.end] = values.at(row.before);
    last.run(values);
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - started;
    std::ofstream file(output, std::ios::binary);
    const auto* samples = reinterpret_cast<const char*>(values.at("sample")->GetTensorData<float>());
    if (!file.write(samples, static_cast<std::streamsize>(noise.size() * sizeof(float)))) {
        throw std::runtime_error(output + " cannot be written");
    }
    std::printf("%zu samples in %.0f ms\n", seeds.size(), taken.count());
}

}  // namespace

int main(int count, char** arguments) {
    const auto given = parsed(count, arguments, 3);
    if (given.seeds.empty()) {
        std::fprintf(stderr, "usage: %s FOLDER OUTPUT NAME=VALUE... SEED...\n", arguments[0]);
        return 2;
    }
    try {
        sample(arguments[1], arguments[2], given);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", arguments[1], error.what());
        return 1;
    }
}
