// Presets with random damage: each loads, or is answered with a ConfigError that says where. Never a crash.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "comm/base/error.h"
#include "configs/load.h"
#include "configs/show.h"
#include "configs/validate.h"
#include "layers/tensor/philox.h"
#include "tests/support/source_dir.h"

namespace conclave::config {
namespace {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed, "config fuzz") {}
  // In [0, sides).
  std::size_t roll(std::size_t sides) { return random_.bits(rolls_++) % std::max<std::size_t>(sides, 1); }

 private:
  RandomStream random_;
  std::uint64_t rolls_ = 0;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char character : text) {
    if (character == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += character;
    }
  }
  return lines;
}

std::string text_of(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

const std::array kOddValues = {"-1",
                               "0",
                               "1e400",
                               "-1e-400",
                               "NaN",
                               ".inf",
                               "99999999999999999999",
                               "0x10",
                               "007",
                               "1_000",
                               "''",
                               "null",
                               "~",
                               "true",
                               "[]",
                               "{}",
                               "auto",
                               "dropless",
                               "*x",
                               "&x 1",
                               "!!str",
                               "- - -",
                               "\"",
                               "'a\"",
                               "|",
                               ">",
                               "%TAG",
                               "@",
                               "`",
                               "\t",
                               "#",
                               "1d",
                               "-5s",
                               "1e9d",
                               "0.5",
                               "2147483648",
                               "softmax",
                               "9223372036854775808"};

// Damages the text in one of the ways in which people and disks do.
void damage(std::string& text, Dice& dice) {
  std::vector<std::string> lines = lines_of(text);
  const std::size_t at = dice.roll(lines.size());
  std::string& line = lines[at];
  switch (dice.roll(9)) {
    case 0:  // a line is lost
      lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 1:  // or there twice
      lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(dice.roll(lines.size())), std::string(line));
      break;
    case 2:
      std::swap(line, lines[dice.roll(lines.size())]);
      break;
    case 3:  // another value
    case 4:
      if (const auto colon = line.find(": "); colon != std::string::npos) {
        line = line.substr(0, colon + 2) + kOddValues[dice.roll(kOddValues.size())];
      }
      break;
    case 5:  // another indentation
      line = std::string(dice.roll(9), ' ') + line;
      break;
    case 6:  // a typo
      if (!line.empty()) line[dice.roll(line.size())] = static_cast<char>('a' + dice.roll(26));
      break;
    case 7:  // any byte anywhere
      text[dice.roll(text.size())] = static_cast<char>(dice.roll(256));
      return;
    default:  // the end is missing
      text.resize(dice.roll(text.size()));
      return;
  }
  text = text_of(lines);
}

TEST(ConfigFuzz, DamagedPresetsLoadOrGetAClearError) {
  const std::filesystem::path presets = test::source_dir() / std::filesystem::path("configs");
  int loaded = 0;
  int refused = 0;
  for (const char* preset : {"tiny.yaml", "quickstart.yaml", "gshard_600b.yaml"}) {
    std::ifstream file(presets / preset);
    const std::string sound{std::istreambuf_iterator<char>(file), {}};
    ASSERT_FALSE(sound.empty()) << preset;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      SCOPED_TRACE(fmt::format("{}, seed {}", preset, seed));
      Dice dice(seed);
      std::string text = sound;
      const std::size_t damages = 1 + dice.roll(3);
      for (std::size_t i = 0; i < damages && !text.empty(); ++i) damage(text, dice);
      try {
        const Experiment experiment = parse_experiment(text, "fuzz.yaml", {});
        ++loaded;
        // What loads can be written and read again, and is the same.
        const Experiment again = parse_experiment(to_yaml(experiment), "again.yaml", {});
        EXPECT_TRUE(differences(experiment, again).empty()) << text;
        for (const int ranks : {1, 3}) {
          try {
            check_for_world(experiment, ranks);
          } catch (const ConfigError&) {
          }
        }
      } catch (const ConfigError& error) {
        ++refused;
        EXPECT_NE(std::string(error.what()).find("fuzz.yaml"), std::string::npos) << error.what();
        EXPECT_EQ(error.exit_code(), ExitCode::kConfiguration);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "not a ConfigError: " << error.what() << "\n" << text;
      }
    }
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 300);
}

TEST(ConfigFuzz, DamagedOverridesToo) {
  const std::string path = (test::source_dir() / std::filesystem::path("configs/tiny.yaml")).string();
  const std::array keys = {
      "moe.top_k", "train.steps", "run.timeout",  "optim.betas", "data.train.0.path", "moe.layers", "moe..x",
      "",          "=",           "model.heads.0"};
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Dice dice(seed);
    const std::vector<std::string> overrides = {
        fmt::format("{}={}", keys[dice.roll(keys.size())], kOddValues[dice.roll(kOddValues.size())])};
    try {
      load_experiment(path, overrides);
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()), "");
    } catch (const std::exception& error) {
      ADD_FAILURE() << overrides[0] << " is no ConfigError: " << error.what();
    }
  }
}

}  // namespace
}  // namespace conclave::config
