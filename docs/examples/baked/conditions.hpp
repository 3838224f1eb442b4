// The conditions of a command line, NAME=VALUE, as inputs of a graph: for sample.cpp and steps.cpp.

#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

// The value of a condition. false and true are 0 and 1 of a bool, and of nothing else.
struct Number {
    double value = 0;
    bool is_word = false;
};

using Conditions = std::map<std::string, Number>;

struct Arguments {
    Conditions conditions;
    std::vector<std::uint64_t> seeds;
};

// NAME=VALUE... SEED..., from the argument `first` on. No seeds if one of them is neither, a name is given twice, or a
// seed is above 2^64 - 1.
inline Arguments parsed(int count, char** arguments, int first) {
    Arguments found;
    for (int place = first; place < count; ++place) {
        const std::string text = arguments[place];
        const auto equals = text.find('=');
        const std::string number = equals == std::string::npos ? text : text.substr(equals + 1);
        char* end = nullptr;
        std::string word = number;
        std::transform(word.begin(), word.end(), word.begin(), [](unsigned char letter) { return std::tolower(letter); });
        const bool is_word = equals != std::string::npos && (word == "true" || word == "false");
        const double value = is_word ? word == "true" : std::strtod(number.c_str(), &end);
        const bool is_number = is_word || (!number.empty() && *end == 0 && std::isfinite(value));
        const bool is_seed = number.find_first_not_of("0123456789") == std::string::npos;
        if (!is_number || equals == 0 || (equals == std::string::npos && !is_seed)) return {};
        if (equals == std::string::npos) {
            errno = 0;
            found.seeds.push_back(std::strtoull(number.c_str(), nullptr, 10));
            if (errno == ERANGE) return {};
        } else if (!found.conditions.emplace(text.substr(0, equals), Number{value, is_word}).second) {
            return {};
        }
    }
    return found;
}

// A tensor of `batch` rows full of one number, for an input called `name`.
inline Ort::Value filled(const std::string& name, const Ort::TypeInfo& type, std::int64_t batch, Number given) {
    const double value = given.value;
    const auto about = type.GetTensorTypeAndShapeInfo();
    auto shape = about.GetShape();
    if (!shape.empty()) shape[0] = batch;
    if (std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size < 0; }))
        throw std::runtime_error(name + " has a free size, which this program does not choose");
    Ort::AllocatorWithDefaultOptions allocator;
    auto tensor = Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), about.GetElementType());
    const auto size = tensor.GetTensorTypeAndShapeInfo().GetElementCount();
    if (given.is_word && about.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL)
        throw std::runtime_error(name + " is not bool: give a number, not true or false");
    if (about.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {
        if (value != std::floor(value)) throw std::runtime_error(name + " is int64, and not a fraction");
        std::fill_n(tensor.GetTensorMutableData<std::int64_t>(), size, static_cast<std::int64_t>(value));
    } else if (about.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        std::fill_n(tensor.GetTensorMutableData<float>(), size, static_cast<float>(value));
    } else if (about.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL) {
        if (value != 0 && value != 1) throw std::runtime_error(name + " is bool: give 0 or 1, or false or true");
        std::fill_n(tensor.GetTensorMutableData<bool>(), size, value != 0);
    } else {
        throw std::runtime_error(name + " has a type that this program does not make");
    }
    return tensor;
}

// The number of the condition `name`, of those of the command line.
inline Number number_of(const Conditions& conditions, const std::string& name) {
    const auto found = conditions.find(name);
    if (found == conditions.end()) throw std::runtime_error("it takes " + name + ": give " + name + "=VALUE");
    return found->second;
}

// An error where a condition is none of the inputs that graphs read.
inline void check_names(const Conditions& conditions, const std::vector<std::string>& inputs) {
    for (const auto& condition : conditions) {
        if (std::find(inputs.begin(), inputs.end(), condition.first) != inputs.end()) continue;
        std::string have;
        for (const auto& name : inputs) have += (have.empty() ? ": it takes " : ", ") + name;
        throw std::runtime_error("it takes no " + condition.first + have);
    }
}
