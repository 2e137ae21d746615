#include "trainer/checkpoint/compare_checkpoints.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "configs/load.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace conclave {
namespace {

// An element, which may stand at any address.
template <class T>
T element(std::span<const std::byte> bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}
double element(std::span<const std::byte> bytes, std::size_t index, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return element<float>(bytes, index);
    case DType::kBFloat16:
      return static_cast<float>(element<bfloat16>(bytes, index));
    case DType::kFloat16:
      return static_cast<float>(element<float16>(bytes, index));
    case DType::kFloat64:
      return element<double>(bytes, index);
    case DType::kInt32:
      return element<std::int32_t>(bytes, index);
    case DType::kInt64:
      return static_cast<double>(element<std::int64_t>(bytes, index));
    case DType::kUInt8:
      return element<std::uint8_t>(bytes, index);
  }
  throw Error(fmt::format("elements of type {} can't be compared", name_of(dtype)));
}

// The larger; NaN if one is NaN.
double worse(double a, double b) { return std::isnan(a) || std::isnan(b) ? std::nan("") : std::max(a, b); }

void add_difference(TensorDifference& difference, double a, double b) {
  ++difference.different;
  if (std::isnan(a) && std::isnan(b)) return;
  const double absolute = a == b ? 0 : std::abs(a - b);  // infinities of one sign are equal
  const double scale = std::max(std::abs(a), std::abs(b));
  difference.max_absolute = worse(difference.max_absolute, absolute);
  difference.max_relative = worse(difference.max_relative, absolute == 0 ? 0 : absolute / scale);
}

void compare_bytes(std::span<const std::byte> a, std::span<const std::byte> b, DType dtype,
                   TensorDifference& difference) {
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return;
  const std::size_t size = size_of(dtype);
  for (std::size_t i = 0; i < a.size() / size; ++i) {
    if (std::memcmp(a.data() + i * size, b.data() + i * size, size) != 0) {
      add_difference(difference, element(a, i, dtype), element(b, i, dtype));
    }
  }
}

TensorDifference compare_tensors(CheckpointReader& a, const checkpoint::Tensor& in_a, CheckpointReader& b,
                                 const checkpoint::Tensor& in_b) {
  const GlobalTensor tensor = global_tensor(in_a);
  TensorDifference difference;
  difference.name = tensor.name;
  difference.shape = tensor.shape.text();
  difference.elements = tensor.shape.elements();
  // The slices of the two may be cut differently.
  a.rows(in_a, {0, tensor.rows()}, [&](Range rows, std::span<const std::byte> bytes_a) {
    b.rows(in_b, rows, [&](Range shared, std::span<const std::byte> bytes_b) {
      const auto skipped = static_cast<std::size_t>((shared.begin - rows.begin) * tensor.row_bytes());
      compare_bytes(bytes_a.subspan(skipped, bytes_b.size()), bytes_b, tensor.dtype, difference);
    });
  });
  return difference;
}

std::string described(const GlobalTensor& tensor) {
  return fmt::format("{} {}", safetensors_dtype(tensor.dtype), tensor.shape.text());
}

}  // namespace

CheckpointComparison compare_checkpoints(const std::filesystem::path& a, const std::filesystem::path& b) {
  CheckpointReader reader_a(a);
  CheckpointReader reader_b(b);
  const TrainingProgress progress_a = progress_of(reader_a.manifest());
  const TrainingProgress progress_b = progress_of(reader_b.manifest());
  CheckpointComparison result;
  result.step_a = progress_a.step;
  result.step_b = progress_b.step;
  try {
    result.configuration =
        config::differences(config::parse_experiment(progress_a.resolved_config, a.string(), {}),
                            config::parse_experiment(progress_b.resolved_config, b.string(), {}));
  } catch (const Error& error) {
    result.configuration_fault = error.what();
  }

  for (const checkpoint::Tensor& in_a : reader_a.manifest().tensors()) {
    const checkpoint::Tensor* in_b = reader_b.find(in_a.name());
    if (in_b == nullptr) {
      result.incomparable.push_back(fmt::format("{}: only in {}", in_a.name(), a.string()));
      continue;
    }
    const std::string what_a = described(global_tensor(in_a));
    const std::string what_b = described(global_tensor(*in_b));
    if (what_a != what_b) {
      result.incomparable.push_back(fmt::format("{}: {} and {}", in_a.name(), what_a, what_b));
      continue;
    }
    TensorDifference difference = compare_tensors(reader_a, in_a, reader_b, *in_b);
    if (difference.different == 0) {
      ++result.identical;
    } else {
      result.different.push_back(std::move(difference));
    }
  }
  for (const checkpoint::Tensor& in_b : reader_b.manifest().tensors()) {
    if (reader_a.find(in_b.name()) == nullptr) {
      result.incomparable.push_back(fmt::format("{}: only in {}", in_b.name(), b.string()));
    }
  }
  return result;
}

}  // namespace conclave
