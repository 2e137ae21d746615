#include "trainer/interop/model_config.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/base/error.h"
#include "configs/load.h"
#include "configs/show.h"

namespace conclave {
namespace {

// ordered_json: the file reads in the order in which it is written here.
using Json = nlohmann::ordered_json;

constexpr const char* kTokenizerKey = "conclave_tokenizer";

std::string torch_name(DType dtype) { return std::string(name_of(dtype)); }

// Keys of config.json that this file reads, each with what an error says of it.
class Keys {
 public:
  explicit Keys(const std::filesystem::path& path) : path_(path.string()) {
    std::ifstream stream(path);
    if (!stream)
      throw ConfigError(
          fmt::format("{}: can't be opened; a Hugging Face model has it beside its "
                      "safetensors files",
                      path_));
    try {
      json_ = Json::parse(stream);
    } catch (const Json::exception& error) {
      throw ConfigError(fmt::format("{}: is not JSON: {}", path_, error.what()));
    }
    if (!json_.is_object()) throw ConfigError(fmt::format("{}: is not a JSON object", path_));
  }

  // A key that isn't there, or is null, counts as not given.
  const Json* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  std::int64_t integer(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) fail(key, "is missing");
    return integer_of(key, *value);
  }
  std::int64_t integer(const char* key, std::int64_t otherwise) const {
    const Json* value = find(key);
    return value == nullptr ? otherwise : integer_of(key, *value);
  }
  double number(const char* key, double otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number()) fail(key, fmt::format("is {}; valid: a number", value->dump()));
    return value->get<double>();
  }
  bool boolean(const char* key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(key, fmt::format("is {}; valid: true or false", value->dump()));
    return value->get<bool>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) fail(key, fmt::format("is {}; valid: a text", value->dump()));
    return value->get<std::string>();
  }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw ConfigError(fmt::format("{}: {} {}", path_, key, what));
  }

 private:
  std::int64_t integer_of(const char* key, const Json& value) const {
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1)
      fail(key, fmt::format("is {}; valid: an integer of at least 1", value.dump()));
    return value.get<std::int64_t>();
  }

  std::string path_;
  Json json_;
};

Architecture read_architecture(const Keys& keys) {
  const std::string type = keys.text("model_type", "");
  if (type.empty()) keys.fail("model_type", "is missing");
  const std::optional<Architecture> architecture = architecture_of(type);
  if (!architecture)
    keys.fail("model_type", fmt::format("is \"{}\"; Conclave reads {}", type, known_model_types()));
  return *architecture;
}

// transformers 5 writes rope_parameters, 4 writes rope_theta and rope_scaling.
double read_rope_theta(const Keys& keys, double otherwise) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* rope = keys.find(key);
    if (rope == nullptr) continue;
    for (const char* type_key : {"rope_type", "type"}) {
      const std::string type = rope->value(type_key, std::string("default"));
      if (type != "default")
        keys.fail(key,
                  fmt::format("has {} \"{}\"; Conclave's rotary positions are not scaled: \"default\" is "
                              "all it can follow",
                              type_key, type));
    }
    if (rope->contains("rope_theta")) return rope->at("rope_theta").get<double>();
  }
  return keys.number("rope_theta", otherwise);
}

// Keys that, at any other value, make another model.
void refuse_what_differs(const Keys& keys, std::int64_t max_seq) {
  for (const char* key : {"attention_bias", "clip_qkv", "mlp_bias"}) {
    const Json* value = keys.find(key);
    if (value != nullptr && *value != false)
      keys.fail(key, fmt::format("is {}; Conclave's attention has none: null or false is all it can follow",
                                 value->dump()));
  }
  const std::string activation = keys.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    keys.fail("hidden_act", fmt::format("is \"{}\"; Conclave's swiglu is \"silu\"", activation));
  const bool uses_window =
      keys.find("use_sliding_window") == nullptr || keys.boolean("use_sliding_window", true);
  const Json* window = keys.find("sliding_window");
  if (uses_window && window != nullptr && *window < max_seq)
    keys.fail("sliding_window",
              fmt::format("is {}, shorter than the context of {}; Conclave's attention sees "
                          "all of it",
                          window->dump(), max_seq));
  const Json* dense = keys.find("mlp_only_layers");
  if (dense != nullptr && !dense->empty())
    keys.fail("mlp_only_layers",
              fmt::format("is {}; only decoder_sparse_step says which blocks are dense", dense->dump()));
}

config::Model read_model(const Keys& keys, Architecture architecture) {
  config::Model model;
  model.set_layers(keys.integer("num_hidden_layers"));
  model.set_d_model(keys.integer("hidden_size"));
  model.set_heads(keys.integer("num_attention_heads"));
  model.set_kv_heads(keys.integer("num_key_value_heads", model.heads()));
  model.set_vocab_size(keys.integer("vocab_size"));
  model.set_max_seq(keys.integer("max_position_embeddings", 4096));
  const bool has_head_dim = architecture != Architecture::kOlmoe;
  model.set_head_dim(has_head_dim ? keys.integer("head_dim", model.d_model() / model.heads())
                                  : model.d_model() / model.heads());
  // What transformers assumes where the key isn't there.
  const bool is_mixtral = architecture == Architecture::kMixtral;
  model.set_rope_theta(read_rope_theta(keys, is_mixtral ? 1e6 : 1e4));
  model.set_norm_eps(keys.number("rms_norm_eps", architecture == Architecture::kQwen3Moe ? 1e-6 : 1e-5));
  model.set_tie_embeddings(keys.boolean("tie_word_embeddings", false));
  model.set_init_std(keys.number("initializer_range", 0.02));
  model.set_qk_norm(!is_mixtral);
  model.set_qk_norm_over(architecture == Architecture::kOlmoe ? config::Model::width : config::Model::head);
  if (architecture == Architecture::kQwen3Moe)
    model.set_d_ff(keys.integer("intermediate_size", model.d_ff()));
  return model;
}

config::Moe read_moe(const Keys& keys, Architecture architecture) {
  config::Moe moe;
  // Qwen3-MoE has another intermediate_size, of its dense blocks.
  const bool is_qwen = architecture == Architecture::kQwen3Moe;
  moe.set_experts(keys.find("num_local_experts") != nullptr ? keys.integer("num_local_experts")
                                                            : keys.integer("num_experts"));
  moe.set_top_k(keys.integer("num_experts_per_tok"));
  moe.set_d_ff(keys.integer(is_qwen ? "moe_intermediate_size" : "intermediate_size"));
  moe.set_every(is_qwen ? keys.integer("decoder_sparse_step", 1) : 1);
  moe.set_normalize_top_k(architecture == Architecture::kMixtral || keys.boolean("norm_topk_prob", false));
  moe.set_capacity_factor(0);  // dropless, as it was trained
  const double their_coefficient = keys.number("router_aux_loss_coef", 0.001);
  moe.set_balance_loss(their_coefficient * static_cast<double>(moe.top_k()));
  if (architecture == Architecture::kMixtral) moe.set_jitter(keys.number("router_jitter_noise", 0));
  return moe;
}

}  // namespace

std::string config_json(const config::Experiment& experiment, Architecture architecture, DType dtype) {
  const config::Model& model = experiment.model();
  const config::Moe moe = exported_moe(experiment);
  Json json;
  json["architectures"] = {class_name(architecture)};
  json["model_type"] = model_type(architecture);
  json["torch_dtype"] = torch_name(dtype);
  json["vocab_size"] = model.vocab_size();
  json["hidden_size"] = model.d_model();
  json["num_hidden_layers"] = model.layers();
  json["num_attention_heads"] = model.heads();
  json["num_key_value_heads"] = model.kv_heads();
  if (architecture != Architecture::kOlmoe) json["head_dim"] = model.head_dim();
  json["max_position_embeddings"] = model.max_seq();
  json["rope_theta"] = model.rope_theta();
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", model.rope_theta()}};
  json["rms_norm_eps"] = model.norm_eps();
  json["tie_word_embeddings"] = model.tie_embeddings();
  json["initializer_range"] = model.init_std();
  json["hidden_act"] = "silu";
  json["attention_dropout"] = 0.0;
  json["num_experts_per_tok"] = moe.top_k();
  json["router_aux_loss_coef"] = moe.balance_loss() / static_cast<double>(moe.top_k());
  json["output_router_logits"] = false;
  switch (architecture) {
    case Architecture::kMixtral:
      json["num_local_experts"] = moe.experts();
      json["intermediate_size"] = moe.d_ff();
      json["router_jitter_noise"] = 0.0;
      json["sliding_window"] = nullptr;
      break;
    case Architecture::kQwen3Moe:
      json["num_experts"] = moe.experts();
      json["intermediate_size"] = model.d_ff();
      json["moe_intermediate_size"] = moe.d_ff();
      json["decoder_sparse_step"] = moe.every();
      json["mlp_only_layers"] = Json::array();
      json["norm_topk_prob"] = moe.normalize_top_k();
      json["attention_bias"] = false;
      json["use_sliding_window"] = false;
      break;
    case Architecture::kOlmoe:
      json["num_experts"] = moe.experts();
      json["intermediate_size"] = moe.d_ff();
      json["norm_topk_prob"] = moe.normalize_top_k();
      json["attention_bias"] = false;
      json["clip_qkv"] = nullptr;
      break;
  }
  // Text has no ends of its own here: no token begins, ends or pads it.
  for (const char* token : {"bos_token_id", "eos_token_id", "pad_token_id"}) json[token] = nullptr;
  if (experiment.data().tokenizer() == config::Data::bytes) json[kTokenizerKey] = "bytes";
  return json.dump(2) + "\n";
}

std::string generation_config_json() {
  const Json json = {{"bos_token_id", nullptr}, {"eos_token_id", nullptr}, {"pad_token_id", nullptr}};
  return json.dump(2) + "\n";
}

ImportedModel read_model_config(const std::filesystem::path& directory) {
  const Keys keys(directory / "config.json");
  ImportedModel imported;
  imported.architecture = read_architecture(keys);
  config::Experiment& experiment = imported.experiment;
  *experiment.mutable_model() = read_model(keys, imported.architecture);
  *experiment.mutable_moe() = read_moe(keys, imported.architecture);
  refuse_what_differs(keys, experiment.model().max_seq());

  const bool is_bytes = keys.text(kTokenizerKey, "") == "bytes";
  config::Data& data = *experiment.mutable_data();
  data.set_tokenizer(is_bytes ? config::Data::bytes : config::Data::pretokenized);
  const std::filesystem::path tokenizer = directory / "tokenizer.json";
  if (!is_bytes && std::filesystem::exists(tokenizer))
    data.set_tokenizer_file(std::filesystem::absolute(tokenizer).lexically_normal().string());
  // An experiment names its data; these files have none.
  config::Source& source = *data.add_train();
  source.set_name("text");
  source.set_path(is_bytes ? "data/text.txt" : "data/text.bin");
  experiment.mutable_run()->set_name("imported");

  // Limits of single keys and the rules between them are those of any experiment.
  imported.experiment =
      config::parse_experiment(config::to_yaml(experiment), (directory / "config.json").string(), {});
  return imported;
}

bool is_hugging_face_directory(const std::filesystem::path& path) {
  return std::filesystem::exists(path / "config.json");
}

}  // namespace conclave
