// Hugging Face files in and out, on the golden models of transformers (tests/interop).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "tests/support/golden_models.h"
#include "tests/support/temporary_directory.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/verify_checkpoint.h"
#include "trainer/interop/element_conversion.h"
#include "trainer/interop/export_model.h"
#include "trainer/interop/import_model.h"
#include "trainer/loaded_model.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

// The tensors of a directory of files, for changing and writing them again.
struct Tensor {
  DType dtype = DType::kFloat32;
  Shape shape;
  std::string bytes;

  friend bool operator==(const Tensor&, const Tensor&) = default;
};
using Tensors = std::map<std::string, Tensor>;

Tensors tensors_of(const fs::path& directory) {
  Tensors tensors;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".safetensors" || name == "reference.safetensors") continue;
    const SafetensorsReader file(entry.path());
    for (const auto& [tensor, found] : file.entries()) {
      tensors[tensor] = {
          found.dtype, found.shape, {reinterpret_cast<const char*>(found.bytes.data()), found.bytes.size()}};
    }
  }
  return tensors;
}

void write_file(const fs::path& path, const Tensors& tensors) {
  std::vector<NamedTensor> named;
  for (const auto& [name, tensor] : tensors)
    named.push_back({name, ConstTensorView(tensor.bytes.data(), tensor.shape, tensor.dtype)});
  write_safetensors(path, named);
}

Tensor converted(const Tensor& tensor, DType dtype) {
  std::vector<float> values(static_cast<std::size_t>(tensor.shape.elements()));
  to_float(std::as_bytes(std::span(tensor.bytes)), tensor.dtype, values);
  std::string bytes(values.size() * size_of(dtype), '\0');
  from_float(values, dtype, std::as_writable_bytes(std::span(bytes)));
  return {dtype, tensor.shape, bytes};
}

std::string fresh_json(const fs::path& path) {
  std::ifstream stream(path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// A golden model in a directory of its own, to be damaged.
class InteropTest : public testing::Test {
 protected:
  fs::path copy_of(const std::string& model) {
    const fs::path copy = directory_.path() / model;
    fs::create_directory(copy);
    for (const char* file : {"config.json", "model.safetensors"})
      fs::copy_file(test::golden_directory(model) / file, copy / file);
    return copy;
  }
  // The copy with other tensors.
  fs::path changed(const std::string& model, const std::function<void(Tensors&)>& change) {
    const fs::path copy = copy_of(model);
    Tensors tensors = tensors_of(copy);
    change(tensors);
    write_file(copy / "model.safetensors", tensors);
    return copy;
  }
  // The copy with another value in config.json.
  fs::path configured(const std::string& model, const std::string& key, const nlohmann::json& value) {
    const fs::path copy = copy_of(model);
    auto json = nlohmann::json::parse(fresh_json(copy / "config.json"));
    json[key] = value;
    std::ofstream(copy / "config.json") << json;
    return copy;
  }
  fs::path target(const std::string& name) const { return directory_.path() / name; }
  void expect_refused(const fs::path& model, const testing::Matcher<const std::string&>& message) {
    EXPECT_THAT([&] { import_model(model, target("refused")); }, ThrowsMessage<Error>(message));
    EXPECT_FALSE(fs::exists(target("refused")));
    EXPECT_FALSE(fs::exists(target("refused.tmp")));
    fs::remove_all(model);
  }

  test::TemporaryDirectory directory_;
};

class EveryModel : public InteropTest, public testing::WithParamInterface<const char*> {};

TEST_P(EveryModel, ImportThenExportReturnsTheSameBits) {
  const Import imported = import_model(test::golden_directory(GetParam()), target("checkpoint"));
  EXPECT_TRUE(verify_checkpoint(target("checkpoint")).good());
  EXPECT_EQ(model_type(imported.architecture), GetParam());
  const Export exported = export_model(target("checkpoint"), target("files"), {});
  EXPECT_EQ(model_type(exported.architecture), GetParam());
  EXPECT_EQ(tensors_of(target("files")), tensors_of(test::golden_directory(GetParam())));
  EXPECT_FALSE(fs::exists(target("files.tmp")));

  // Its config.json makes the same model again.
  config::Experiment again = read_model_config(target("files")).experiment;
  const config::Experiment first = read_model_config(test::golden_directory(GetParam())).experiment;
  EXPECT_EQ(again.model().SerializeAsString(), first.model().SerializeAsString());
  EXPECT_EQ(again.moe().SerializeAsString(), first.moe().SerializeAsString());
}

// A model in half precision comes back in half precision, bit for bit, also from and into many files.
TEST_P(EveryModel, HalfPrecisionInManyFiles) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const std::string name(name_of(dtype));
    const fs::path half = target(name);
    fs::create_directory(half);
    fs::copy_file(test::golden_directory(GetParam()) / "config.json", half / "config.json");
    Tensors all = tensors_of(test::golden_directory(GetParam()));
    for (auto& [tensor, value] : all) value = converted(value, dtype);
    // Three files without an index.
    std::array<Tensors, 3> parts;
    std::size_t next = 0;
    for (const auto& [tensor, value] : all) parts[next++ % parts.size()][tensor] = value;
    for (std::size_t part = 0; part < parts.size(); ++part)
      write_file(half / fmt::format("part_{}.safetensors", part), parts[part]);

    import_model(half, target(name + "_checkpoint"));
    const Export exported =
        export_model(target(name + "_checkpoint"), target(name + "_files"), {dtype, /*shard_bytes=*/4000});
    EXPECT_GT(exported.files, 2);
    EXPECT_EQ(tensors_of(target(name + "_files")), all);
    // The files with their index are a model too.
    import_model(target(name + "_files"), target(name + "_again"));
  }
}

// gate_up_proj [E, 2F, D] and down_proj [E, D, F], with the words of newer code also for Mixtral.
TEST_P(EveryModel, FusedExpertsAreTheSameModel) {
  const fs::path fused = changed(GetParam(), [](Tensors& tensors) {
    Tensors result;
    std::map<std::string, Tensor> gate_up;
    std::map<std::string, Tensor> down;
    for (std::int64_t expert = 0;; ++expert) {
      bool found = false;
      for (const auto& [name, tensor] : tensors) {
        const std::string middle = fmt::format(".experts.{}.", expert);
        const std::size_t at = name.find(middle);
        if (at == std::string::npos) continue;
        found = true;
        const std::string word = name.substr(at + middle.size());
        std::string prefix = name.substr(0, at);
        if (const auto old = prefix.find("block_sparse_moe"); old != std::string::npos)
          prefix.replace(old, 16, "mlp");
        const bool is_down = word == "down_proj.weight" || word == "w2.weight";
        Tensor& all = (is_down ? down : gate_up)[prefix];
        all.shape = {expert + 1, is_down ? tensor.shape[0] : 2 * tensor.shape[0], tensor.shape[1]};
        all.bytes += tensor.bytes;  // names are sorted: w1 before w3, gate_proj before up_proj
      }
      if (!found) break;
    }
    for (const auto& [name, tensor] : tensors) {
      if (name.find(".experts.") != std::string::npos) continue;
      std::string other = name;
      if (const auto old = other.find("block_sparse_moe"); old != std::string::npos)
        other.replace(old, 16, "mlp");
      result[other] = tensor;
    }
    for (const auto& [prefix, tensor] : gate_up) result[prefix + ".experts.gate_up_proj"] = tensor;
    for (const auto& [prefix, tensor] : down) result[prefix + ".experts.down_proj"] = tensor;
    tensors = result;
  });
  import_model(fused, target("checkpoint"));
  export_model(target("checkpoint"), target("files"), {});
  EXPECT_EQ(tensors_of(target("files")), tensors_of(test::golden_directory(GetParam())));
}

INSTANTIATE_TEST_SUITE_P(Models, EveryModel, testing::ValuesIn(test::kGoldenModels),
                         [](const auto& model) { return std::string(model.param); });

constexpr const char* kExpert = "model.layers.1.block_sparse_moe.experts.3.w2.weight";

TEST_F(InteropTest, NamesWhatIsWrongWithTheTensors) {
  expect_refused(changed("mixtral", [](Tensors& tensors) { tensors.erase(kExpert); }),
                 HasSubstr(fmt::format("there is no tensor {}", kExpert)));
  expect_refused(changed("olmoe", [](Tensors& tensors) { tensors.erase("model.norm.weight"); }),
                 HasSubstr("there is no tensor model.norm.weight, which final_norm.weight is read from"));
  expect_refused(changed("mixtral",
                         [](Tensors& tensors) {
                           tensors[kExpert].shape = {10, 16};
                         }),
                 AllOf(HasSubstr(kExpert), HasSubstr("has shape [10, 16], config.json makes it [16, 10]")));
  expect_refused(changed("mixtral",
                         [](Tensors& tensors) {
                           const float nan = std::numeric_limits<float>::quiet_NaN();
                           std::memcpy(tensors[kExpert].bytes.data() + 4 * 7, &nan, sizeof nan);
                         }),
                 HasSubstr(fmt::format("tensor {} holds nan at element 7", kExpert)));
  expect_refused(changed("mixtral", [](Tensors& tensors) { tensors[kExpert].dtype = DType::kInt32; }),
                 AllOf(HasSubstr(kExpert), HasSubstr("elements of type int32")));
  expect_refused(changed("qwen3_moe",
                         [](Tensors& tensors) {
                           Tensor bias{DType::kFloat32, {24}, std::string(96, '\0')};
                           tensors["model.layers.0.self_attn.q_proj.bias"] = bias;
                         }),
                 HasSubstr("model.layers.0.self_attn.q_proj.bias has no place in the model"));
}

TEST_F(InteropTest, AHeadBesideTiedEmbeddingsHasToBeTheirCopy) {
  const auto with_head = [&](char first) {
    return changed("qwen3_moe", [&](Tensors& tensors) {
      tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
      tensors["lm_head.weight"].bytes[0] ^= first;
    });
  };
  const fs::path copy = with_head(0);
  EXPECT_EQ(import_model(copy, target("tied")).architecture, Architecture::kQwen3Moe);
  fs::remove_all(copy);
  expect_refused(with_head(1), HasSubstr("lm_head.weight has no place"));
}

TEST_F(InteropTest, NamesWhatIsWrongWithTheFiles) {
  const fs::path twice = copy_of("mixtral");
  write_file(twice / "part_1.safetensors", {{kExpert, tensors_of(twice)[kExpert]}});
  fs::rename(twice / "model.safetensors", twice / "part_0.safetensors");
  expect_refused(twice, AllOf(HasSubstr(kExpert), HasSubstr("stands in part_0.safetensors too")));

  const fs::path cut = copy_of("mixtral");
  fs::resize_file(cut / "model.safetensors", fs::file_size(cut / "model.safetensors") - 10);
  expect_refused(cut, HasSubstr("model.safetensors"));

  const fs::path missing = copy_of("mixtral");
  std::ofstream(missing / "model.safetensors.index.json")
      << R"({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})";
  expect_refused(missing, HasSubstr("model-00001-of-00002.safetensors is missing"));

  const fs::path elsewhere = copy_of("mixtral");
  std::ofstream(elsewhere / "model.safetensors.index.json")
      << R"({"weight_map": {"model.lost.weight": "model.safetensors"}})";
  expect_refused(elsewhere, HasSubstr("says that tensor model.lost.weight stands in model.safetensors"));

  const fs::path none = copy_of("mixtral");
  fs::remove(none / "model.safetensors");
  expect_refused(none, HasSubstr("no *.safetensors file"));
}

TEST_F(InteropTest, RefusesModelsThatComputeSomethingElse) {
  expect_refused(configured("mixtral", "model_type", "llama"),
                 HasSubstr("model_type is \"llama\"; Conclave reads mixtral, qwen3_moe, olmoe"));
  expect_refused(configured("mixtral", "sliding_window", 16), HasSubstr("sliding_window is 16, shorter"));
  expect_refused(configured("qwen3_moe", "attention_bias", true), HasSubstr("attention_bias is true"));
  expect_refused(configured("olmoe", "clip_qkv", 8.0), HasSubstr("clip_qkv is 8.0"));
  expect_refused(configured("mixtral", "hidden_act", "gelu"), HasSubstr("hidden_act is \"gelu\""));
  expect_refused(configured("mixtral", "rope_parameters", {{"rope_type", "yarn"}, {"factor", 4}}),
                 HasSubstr("rope_type \"yarn\""));
  expect_refused(configured("qwen3_moe", "mlp_only_layers", {0}), HasSubstr("mlp_only_layers is [0]"));
  expect_refused(configured("mixtral", "num_experts_per_tok", 9), HasSubstr("top_k"));
  expect_refused(configured("mixtral", "hidden_size", "wide"), HasSubstr("hidden_size is \"wide\""));
}

// transformers 4 wrote the rotary base beside the other keys.
TEST_F(InteropTest, ReadsTheRotaryBaseWhereverItStands) {
  const fs::path old = configured("mixtral", "rope_parameters", nullptr);
  auto json = nlohmann::json::parse(fresh_json(old / "config.json"));
  json["rope_theta"] = 123.0;
  std::ofstream(old / "config.json") << json;
  EXPECT_EQ(read_model_config(old).experiment.model().rope_theta(), 123.0);
  EXPECT_EQ(read_model_config(test::golden_directory("mixtral")).experiment.model().rope_theta(), 1000.0);
}

}  // namespace
}  // namespace conclave
