// The conditions of a command line, NAME=VALUE or NAME=@FILE, as inputs of a graph: for sample.cpp and steps.cpp.

#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

// The value of a condition: a number, or a file of raw numbers. false and true are 0 and 1 of a bool, and of nothing
// else.
struct Value {
    double number = 0;
    bool is_word = false;
    std::string file = {};
};

using Conditions = std::map<std::string, Value>;
using Sizes = std::map<std::string, std::int64_t>;  // the batch and the free sizes, by name

struct Arguments {
    Conditions conditions;
    std::vector<std::uint64_t> seeds;
};

// NAME=VALUE... NAME=@FILE... SEED..., from the argument `first` on. No seeds if one of them is none of these, a name is
// given twice, or a seed is above 2^64 - 1.
inline Arguments parsed(int count, char** arguments, int first) {
    Arguments found;
    for (int place = first; place < count; ++place) {
        const std::string text = arguments[place];
        const auto equals = text.find('=');
        const std::string number = equals == std::string::npos ? text : text.substr(equals + 1);
        if (equals != std::string::npos && equals > 0 && number.size() > 1 && number[0] == '@') {
            if (!found.conditions.emplace(text.substr(0, equals), Value{0, false, number.substr(1)}).second) return {};
            continue;
        }
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
        } else if (!found.conditions.emplace(text.substr(0, equals), Value{value, is_word}).second) {
            return {};
        }
    }
    return found;
}

// The length of an axis that a graph calls `term`, such as "frames", "height/8" or "height*width/64".
inline std::int64_t length_of(const std::string& term, const Sizes& sizes) {
    std::int64_t above = 1, below = 1;
    std::size_t first = 0;
    bool divides = false;
    while (first <= term.size()) {
        const auto end = std::min(term.find_first_of("*/", first), term.size());
        const auto factor = term.substr(first, end - first);
        const bool is_number = !factor.empty() && factor.find_first_not_of("0123456789") == std::string::npos;
        const auto found = sizes.find(factor);
        if (!is_number && found == sizes.end())
            throw std::runtime_error("it takes the size " + factor + ": give " + factor + "=NUMBER");
        (divides ? below : above) *= is_number ? std::stoll(factor) : found->second;
        divides = end < term.size() && term[end] == '/';
        first = end + 1;
    }
    return above / below;
}

// The names of the axes of an input; "" where an axis has a fixed length.
inline std::vector<std::string> axis_names(const Ort::TypeInfo& type) {
    const auto about = type.GetTensorTypeAndShapeInfo();
    std::vector<const char*> names(about.GetShape().size());
    about.GetSymbolicDimensions(names.data(), names.size());
    return {names.begin(), names.end()};
}

inline std::vector<std::int64_t> shape_of(const Ort::TypeInfo& type, const Sizes& sizes) {
    auto shape = type.GetTensorTypeAndShapeInfo().GetShape();
    const auto names = axis_names(type);
    for (std::size_t axis = 0; axis < shape.size(); ++axis)
        if (shape[axis] < 0) shape[axis] = length_of(names[axis], sizes);
    return shape;
}

// Fills a tensor with a file of raw numbers in its type: one value for each sample, or one for all of them.
inline void read_into(Ort::Value& tensor, const std::string& name, const std::string& path, std::size_t bytes) {
    const auto samples = static_cast<std::size_t>(tensor.GetTensorTypeAndShapeInfo().GetShape()[0]);
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const auto one = bytes / samples;
    if (!file) throw std::runtime_error(path + " cannot be read");
    if (content.size() != bytes && content.size() != one) {
        const auto needed = std::to_string(one) + (samples > 1 ? " or " + std::to_string(bytes) : "");
        throw std::runtime_error(name + " takes " + needed + " bytes, but " + path + " has " +
            std::to_string(content.size()));
    }
    const bool is_bool = tensor.GetTensorTypeAndShapeInfo().GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    if (is_bool && std::any_of(content.begin(), content.end(), [](char byte) { return byte != 0 && byte != 1; }))
        throw std::runtime_error(path + " has a byte other than 0 and 1, and " + name + " is bool");
    auto* first = static_cast<char*>(tensor.GetTensorMutableRawData());
    for (std::size_t place = 0; place < bytes; place += content.size())
        std::copy(content.begin(), content.end(), first + place);
}

// The tensor of a condition for an input called `name`: full of one number, or the numbers of a file.
inline Ort::Value tensor_of(const std::string& name, const Ort::TypeInfo& type, const Sizes& sizes, const Value& given) {
    const auto kind = type.GetTensorTypeAndShapeInfo().GetElementType();
    const auto shape = shape_of(type, sizes);
    const double value = given.number;
    Ort::AllocatorWithDefaultOptions allocator;
    auto tensor = Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), kind);
    const auto size = tensor.GetTensorTypeAndShapeInfo().GetElementCount();
    if (given.is_word && kind != ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL)
        throw std::runtime_error(name + " is not bool: give a number, not true or false");
    if (kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) {
        if (!given.file.empty()) read_into(tensor, name, given.file, size * sizeof(std::int64_t));
        else if (value != std::floor(value)) throw std::runtime_error(name + " is int64, and not a fraction");
        else std::fill_n(tensor.GetTensorMutableData<std::int64_t>(), size, static_cast<std::int64_t>(value));
    } else if (kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        auto* first = tensor.GetTensorMutableData<float>();
        if (!given.file.empty()) read_into(tensor, name, given.file, size * sizeof(float));
        else std::fill_n(first, size, static_cast<float>(value));
        if (!std::all_of(first, first + size, [](float number) { return std::isfinite(number); }))
            throw std::runtime_error(given.file + " has a number that is not finite");
    } else if (kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL) {
        if (!given.file.empty()) read_into(tensor, name, given.file, size);
        else if (value != 0 && value != 1) throw std::runtime_error(name + " is bool: give 0 or 1, or false or true");
        else std::fill_n(tensor.GetTensorMutableData<bool>(), size, value != 0);
    } else {
        throw std::runtime_error(name + " has a type that this program does not make");
    }
    return tensor;
}

// The value of the condition `name`, of those of the command line.
inline const Value& value_of(const Conditions& conditions, const std::string& name) {
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
