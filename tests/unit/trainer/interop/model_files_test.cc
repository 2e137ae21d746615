// Tensors larger than what is read at once: every element in its place, and what is wrong named by its own.
#include "trainer/interop/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <vector>

#include "comm/base/error.h"
#include "tests/support/temporary_directory.h"
#include "trainer/interop/element_conversion.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// A tensor of three pieces, the middle one of more than a part (4 Mi elements), none of a multiple of a
// block.
class LargeTensor : public testing::TestWithParam<DType> {
 protected:
  LargeTensor() {
    std::vector<TensorPiece> pieces;
    for (const std::int64_t elements :
         {std::int64_t{7}, (std::int64_t{4} << 20) + 66'000, std::int64_t{70'001}}) {
      pieces.push_back({fmt::format("piece_{}", pieces.size()), {elements}, all_});
      all_ += elements;
    }
    names_ = {.name = "tensor", .shape = {all_}, .ways = {pieces}};
  }
  // Small whole numbers, exact in every type, neighbours and blocks told apart.
  static float value(std::int64_t element) {
    return static_cast<float>((element * 31 + element / 251) % 127);
  }
  void write(std::int64_t bad_element = -1) const {
    std::vector<NamedTensor> tensors;
    std::vector<std::vector<std::byte>> bytes;
    for (const TensorPiece& piece : names_.written()) {
      std::vector<float> values;
      for (std::int64_t i = piece.elements().begin; i < piece.elements().end; ++i)
        values.push_back(i == bad_element ? -std::numeric_limits<float>::infinity() : value(i));
      bytes.emplace_back(values.size() * size_of(GetParam()));
      from_float(values, GetParam(), bytes.back());
      tensors.push_back({piece.name, ConstTensorView(bytes.back().data(), piece.shape, GetParam())});
    }
    write_safetensors(path(), tensors);
  }
  void read(const ModelFiles& files, Range elements, std::span<float> out) const {
    files.read(std::array{ModelFiles::Wanted{&names_, elements, out}});
  }
  std::filesystem::path path() const { return directory_.path() / "model.safetensors"; }

  test::TemporaryDirectory directory_;
  TensorNames names_;
  std::int64_t all_ = 0;
};

TEST_P(LargeTensor, IsReadInAnyPieces) {
  write();
  const ModelFiles files(directory_.path());
  for (const Range range :
       {Range{0, all_}, Range{5, 9}, Range{65'530, all_ - 70'000}, Range{all_ - 1, all_}}) {
    std::vector<float> values(static_cast<std::size_t>(range.size()));
    read(files, range, values);
    std::int64_t wrong = 0;
    for (std::int64_t i = range.begin; i < range.end; ++i)
      wrong += values[static_cast<std::size_t>(i - range.begin)] != value(i);
    EXPECT_EQ(wrong, 0) << range.begin;
  }
}

TEST_P(LargeTensor, NamesTheElementThatIsNotFinite) {
  // In the first part of the piece behind two blocks (of 1 Mi elements) and in the second part.
  for (const std::int64_t in_piece : {(std::int64_t{2} << 20) + 16'389, (std::int64_t{4} << 20) + 65'539}) {
    write(/*bad_element=*/7 + in_piece);
    const ModelFiles files(directory_.path());
    std::vector<float> values(static_cast<std::size_t>(all_));
    const std::string expected = fmt::format("tensor piece_1 holds -inf at element {}", in_piece);
    EXPECT_THAT([&] { read(files, {0, all_}, values); }, ThrowsMessage<Error>(HasSubstr(expected)));
    // What isn't wanted isn't looked at.
    read(files, {0, 7}, std::span(values).first(7));
  }
}

TEST_P(LargeTensor, AFileThatIsCutWhileItIsReadIsNoCrash) {
  write();
  const ModelFiles files(directory_.path());
  std::filesystem::resize_file(path(), std::filesystem::file_size(path()) / 2);
  std::vector<float> values(static_cast<std::size_t>(all_));
  EXPECT_THAT(
      [&] {
        read(files, {0, all_}, values);
      },
      ThrowsMessage<Error>(HasSubstr("the file is shorter")));
}

INSTANTIATE_TEST_SUITE_P(Types, LargeTensor,
                         testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16),
                         [](const auto& type) { return std::string(name_of(type.param)); });

}  // namespace
}  // namespace conclave
