// The presets in configs/: each loads, each is what the JSON Schema describes, and their shapes are
// the published ones.
#include <gtest/gtest.h>
#include <regex.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "configs/load.h"
#include "configs/resolve.h"
#include "configs/show.h"
#include "tests/support/source_dir.h"

namespace conclave {
namespace {

using nlohmann::json;

std::vector<std::filesystem::path> presets() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(test::source_dir() / "configs")) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  return files;
}

config::Experiment load_preset(const std::string& name) {
  return config::load_experiment((test::source_dir() / "configs" / (name + ".yaml")).string(), {});
}

TEST(PresetsTest, AreAllThere) {
  std::set<std::string> names;
  for (const auto& path : presets()) names.insert(path.stem());
  for (const char* name : {"quickstart",
                           "bible",
                           "shakespeare",
                           "shakespeare_dense",
                           "tiny",
                           "bench_256",
                           "bench_512",
                           "switch_base_128",
                           "gshard_600b",
                           "mixtral_8x7b",
                           "local_experts_1991",
                           "local_experts_1991_single",
                           "classics",
                           "classics_dense",
                           "shazeer_2017",
                           "shazeer_2017_hierarchical",
                           "gshard",
                           "switch",
                           "expert_choice",
                           "mixtral",
                           "deepseek_v3",
                           "hash"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

TEST(PresetsTest, LoadAndCarryTheirNames) {
  for (const auto& path : presets()) {
    SCOPED_TRACE(path);
    config::Experiment experiment;
    ASSERT_NO_THROW(experiment = config::load_experiment(path.string(), {}));
    EXPECT_EQ(experiment.run().name(), path.stem());
    EXPECT_EQ(experiment.run().dir(), "runs/" + path.stem().string());
  }
}

// Parameters of a model whose feed-forward blocks are SwiGLU; norms left out.
double parameters(const config::Experiment& experiment, double experts_counted) {
  const auto& model = experiment.model();
  const auto& moe = experiment.moe();
  const double d = static_cast<double>(model.d_model());
  const double heads_width =
      static_cast<double>(model.head_dim() * (2 * model.heads() + 2 * model.kv_heads()));
  double total = d * static_cast<double>(model.vocab_size()) * (model.tie_embeddings() ? 1 : 2);
  for (std::int64_t layer = 0; layer < model.layers(); ++layer) {
    total += d * heads_width;
    total += config::is_moe_layer(experiment, layer)
                 ? 3 * d * static_cast<double>(moe.d_ff()) * experts_counted
                 : 3 * d * static_cast<double>(model.d_ff());
  }
  return total;
}

TEST(PresetsTest, KnownModelsHaveTheirPublishedSizes) {
  const config::Experiment mixtral = load_preset("mixtral_8x7b");
  EXPECT_NEAR(parameters(mixtral, 8), 46.7e9, 0.05e9);
  EXPECT_NEAR(parameters(mixtral, 2), 12.9e9, 0.05e9);
  EXPECT_NEAR(parameters(load_preset("switch_base_128"), 128), 7.4e9, 0.1e9);
  EXPECT_NEAR(parameters(load_preset("gshard_600b"), 2048), 930e9, 5e9);
}

// Hidden units of the experts that a token passes, and of the dense block in their place.
TEST(PresetsTest, ClassicsCompareEqualFlops) {
  const config::Experiment dense = load_preset("classics_dense");
  EXPECT_EQ(dense.moe().experts(), 0);
  for (const char* name : {"classics", "shazeer_2017", "shazeer_2017_hierarchical", "gshard", "switch",
                           "expert_choice", "mixtral", "deepseek_v3", "hash"}) {
    SCOPED_TRACE(name);
    const config::Experiment preset = load_preset(name);
    const config::Moe& moe = preset.moe();
    const double experts =
        moe.router() == config::Moe::expert_choice ? moe.capacity_factor() : static_cast<double>(moe.top_k());
    EXPECT_EQ((experts + static_cast<double>(moe.shared_experts())) * static_cast<double>(moe.d_ff()),
              static_cast<double>(dense.model().d_ff()));
    for (const auto& difference : config::differences(dense, preset)) {
      const std::string& key = difference.key;
      const bool is_masked = key == "model.causal" || key == "train.objective" || key == "model.vocab_size";
      EXPECT_TRUE(key.starts_with("run.") || key.starts_with("moe.") ||
                  (is_masked && !preset.model().causal()))
          << key;
    }
  }
}

TEST(PresetsTest, OneLocalExpertHasAsManyHiddenUnitsAsFour) {
  const config::Experiment mixture = load_preset("local_experts_1991");
  const config::Experiment single = load_preset("local_experts_1991_single");
  EXPECT_EQ(single.moe().experts(), 1);
  EXPECT_EQ(mixture.moe().experts() * mixture.moe().d_ff(), single.moe().d_ff());
}

TEST(PresetsTest, ShakespeareComparesEqualActiveWidths) {
  const config::Experiment moe = load_preset("shakespeare");
  const config::Experiment dense = load_preset("shakespeare_dense");
  EXPECT_EQ(moe.moe().top_k() * moe.moe().d_ff(), dense.model().d_ff());
  EXPECT_EQ(dense.moe().experts(), 0);
  for (const auto& difference : config::differences(moe, dense)) {
    EXPECT_TRUE(difference.key.starts_with("run.") || difference.key == "moe.experts") << difference.key;
  }
}

// ---- A checker for the part of JSON Schema that json_schema() uses ----

// A plain YAML scalar as JSON sees it by YAML 1.2: number, boolean or text.
json to_json(const YAML::Node& node) {
  if (node.IsMap()) {
    json object = json::object();
    for (const auto& entry : node) object[entry.first.Scalar()] = to_json(entry.second);
    return object;
  }
  if (node.IsSequence()) {
    json array = json::array();
    for (const auto& element : node) array.push_back(to_json(element));
    return array;
  }
  const json parsed = json::parse(node.Scalar(), nullptr, false);
  return node.Tag() == "!" || parsed.is_discarded() ? json(node.Scalar()) : parsed;
}

bool has_type(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "number") return value.is_number();
  const bool whole = value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>();
  return type == "integer" && (value.is_number_integer() || whole);
}

bool matches(const std::string& pattern, const std::string& text) {
  regex_t compiled;
  if (regcomp(&compiled, pattern.c_str(), REG_EXTENDED | REG_NOSUB) != 0) return false;
  const bool found = regexec(&compiled, text.c_str(), 0, nullptr, 0) == 0;
  regfree(&compiled);
  return found;
}

// A limit binds values of its own type only, as the standard says.
bool accepts(const json& schema, const json& value) {
  static const std::set<std::string> annotations = {"$schema", "title", "description", "default"};
  for (const auto& [word, rule] : schema.items()) {
    if (annotations.contains(word)) continue;
    bool holds = false;
    if (word == "type") {
      holds = has_type(value, rule);
    } else if (word == "properties") {
      holds = true;
      for (const auto& [name, inner] : value.items()) {
        holds = holds && (!rule.contains(name) || accepts(rule.at(name), inner));
      }
    } else if (word == "additionalProperties") {
      holds = true;
      for (const auto& [name, inner] : value.items()) holds = holds && schema.at("properties").contains(name);
    } else if (word == "items") {
      holds = true;
      for (const auto& element : value) holds = holds && accepts(rule, element);
    } else if (word == "anyOf") {
      for (const auto& choice : rule) holds = holds || accepts(choice, value);
    } else if (word == "enum") {
      holds = std::find(rule.begin(), rule.end(), value) != rule.end();
    } else if (word == "const") {
      holds = value == rule;
    } else if (word == "minimum") {
      holds = !value.is_number() || value.get<double>() >= rule.get<double>();
    } else if (word == "exclusiveMinimum") {
      holds = !value.is_number() || value.get<double>() > rule.get<double>();
    } else if (word == "maximum") {
      holds = !value.is_number() || value.get<double>() <= rule.get<double>();
    } else if (word == "minLength") {
      holds = !value.is_string() || value.get<std::string>().size() >= rule.get<std::size_t>();
    } else if (word == "minItems") {
      holds = !value.is_array() || value.size() >= rule.get<std::size_t>();
    } else if (word == "pattern") {
      holds = !value.is_string() || matches(rule, value);
    } else {
      ADD_FAILURE() << "the checker doesn't know the word " << word;
    }
    if (!holds) return false;
  }
  return true;
}

TEST(JsonSchemaTest, AcceptsEveryPresetAsWrittenAndAsShown) {
  const json schema = json::parse(config::json_schema());
  for (const auto& path : presets()) {
    SCOPED_TRACE(path);
    EXPECT_TRUE(accepts(schema, to_json(YAML::LoadFile(path.string()))));
    EXPECT_TRUE(
        accepts(schema, to_json(YAML::Load(config::to_yaml(config::load_experiment(path.string(), {}))))));
  }
}

TEST(JsonSchemaTest, RefusesWhatTheLoaderRefuses) {
  const json schema = json::parse(config::json_schema());
  EXPECT_TRUE(accepts(schema, json::object()));
  for (const char* yaml :
       {"{modle: {}}", "{moe: {topk: 1}}", "{moe: {top_k: 0}}", "{moe: {top_k: 65}}", "{moe: {top_k: two}}",
        "{moe: {top_k: 1.5}}", "{moe: {drop: random}}", "{moe: {capacity_factor: 0}}",
        "{moe: {capacity_factor: auto}}", "{model: {qk_norm: 1}}", "{run: {max_wall_time: 30}}",
        "{run: {name: \"\"}}", "{data: {train: []}}", "{data: {train: [{nam: a}]}}",
        "{optim: {betas: [1, 0.5]}}", "{base: [a]}", "[]"}) {
    EXPECT_FALSE(accepts(schema, to_json(YAML::Load(yaml)))) << yaml;
  }
}

}  // namespace
}  // namespace conclave
