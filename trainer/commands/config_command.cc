#include "trainer/commands/config_command.h"

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "configs/load.h"
#include "configs/show.h"
#include "trainer/interop/architecture.h"

namespace conclave {

namespace {

struct ConfigOptions {
  std::string file;
  std::string other_file;
  std::vector<std::string> overrides;
  std::string key;
};

int print_differences(const std::string& file_a, const std::string& file_b) {
  const auto found =
      config::differences(config::load_experiment(file_a, {}), config::load_experiment(file_b, {}));
  if (found.empty()) {
    fmt::print("no differences\n");
    return 0;
  }
  fmt::print("--- {}\n+++ {}\n", file_a, file_b);
  for (const config::Difference& difference : found) {
    fmt::print("{}: {} -> {}{}\n", difference.key, difference.a, difference.b,
               difference.changes_results ? "" : "  (does not change results)");
  }
  return 1;
}

}  // namespace

void add_config_command(CLI::App& app, std::function<int()>& selected) {
  // Shared by the actions, which run after this function has returned.
  const auto options = std::make_shared<ConfigOptions>();
  CLI::App* config = app.add_subcommand("config", "Show, explain and compare configurations; runs nothing");
  config->require_subcommand(1);

  CLI::App* show = config->add_subcommand("show", "Print every key of a YAML file with its resolved value");
  show->add_option("file", options->file, "YAML file, such as configs/quickstart.yaml")->required();
  show->add_option("overrides", options->overrides, "key=value, such as moe.top_k=1");
  show->callback([options, &selected] {
    selected = [options] {
      const config::Experiment experiment = config::load_experiment(options->file, options->overrides);
      fmt::print("{}# {}\n", config::to_yaml(experiment), describe(export_fit(experiment)));
      return 0;
    };
  });

  CLI::App* explain = config->add_subcommand("explain", "Tell what a key does and which values it takes");
  explain->add_option("key", options->key, "a key (moe.top_k) or section (moe); without it, the sections");
  explain->callback([options, &selected] {
    selected = [options] {
      fmt::print("{}", config::explain(options->key));
      return 0;
    };
  });

  CLI::App* diff =
      config->add_subcommand("diff", "List the keys in which two YAML files differ; exit code 1 if any");
  diff->add_option("a", options->file, "YAML file")->required();
  diff->add_option("b", options->other_file, "YAML file")->required();
  diff->callback([options, &selected] {
    selected = [options] { return print_differences(options->file, options->other_file); };
  });

  CLI::App* schema =
      config->add_subcommand("schema", "Print the JSON Schema that lets an editor check YAML files");
  schema->callback([&selected] {
    selected = [] {
      fmt::print("{}", config::json_schema());
      return 0;
    };
  });
}

}  // namespace conclave
